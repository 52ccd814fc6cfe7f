//! The contract of a store, case by case. Nothing here knows which store it runs on.

use std::time::Duration;

use retryspoolfs::{
    Backend, Context, MessageId, MessageListOptions, MessageMetadata, QueueState, Timestamp,
};

mod apply;
mod audit;
mod calls;
mod changes;
mod feed;
mod listing;
mod upkeep;

pub use apply::*;
pub use audit::*;
pub use calls::*;
pub use changes::*;
pub use feed::*;
pub use listing::*;
pub use upkeep::*;

/// A spool that can be opened, closed and opened again; it ends with this value.
pub struct Spool {
    open: Box<dyn Fn() -> Box<dyn Backend>>,
    holds: fn(&str) -> bool,
    _directory: tempfile::TempDir,
}

impl Spool {
    pub fn new(
        directory: tempfile::TempDir,
        open: impl Fn() -> Box<dyn Backend> + 'static,
    ) -> Spool {
        Spool {
            open: Box::new(open),
            holds: |_| true,
            _directory: directory,
        }
    }

    /// Declares that the store can't hold every ID: it refuses the others as invalid, and has
    /// none of them.
    pub fn holding(self, holds: fn(&str) -> bool) -> Spool {
        Spool { holds, ..self }
    }

    /// Whether the store can hold this ID.
    pub fn holds(&self, id: &str) -> bool {
        (self.holds)(id)
    }

    pub fn open(&self) -> Box<dyn Backend> {
        (self.open)()
    }
}

/// Makes a test of each case for one store.
macro_rules! conformance {
    ($store:ident, $spool:path) => {
        $crate::contract::conformance! { @ $store, $spool,
            what_was_stored_is_what_is_read
            what_was_stored_is_there_after_reopening
            store_meta_overwrites
            store_meta_takes_now_for_never
            update_meta_keeps_created
            delete_meta_removes_from_any_state
            insert_refuses_an_id_in_use
            replace_needs_state_and_revision
            replace_may_move
            relocate_is_compare_and_swap
            relocate_to_the_same_state_only_looks
            remove_is_compare_and_swap
            every_change_makes_updated_greater
            a_proposed_updated_wins_if_it_is_later
            counts_are_exact
            the_counter_is_the_state_info
            a_change_of_a_state_is_dated
            ages_are_the_oldest_and_the_next_due
            scan_pages_in_byte_order
            scan_stored_gives_what_get_gives
            a_selection_is_what_the_filter_means
            a_selection_goes_on_from_its_cursor
            listings_page_and_sort
            listings_filter_by_since
            a_limit_of_zero_counts
            strange_ids_are_ordinary
            a_closed_store_refuses
            a_passed_deadline_ends_a_call
            the_log_knows_earlier_revisions
            sync_and_space_answer
            apply_answers_each_by_itself
            apply_makes_many
            of_two_racing_appliers_each_message_has_one_winner
            insert_all_answers_each
            a_sound_store_has_no_findings
            what_is_frozen_stays_as_it_was
            one_of_two_racing_movers_wins
            one_of_two_racing_inserters_wins
            one_of_two_racing_editors_wins
            a_feed_tells_each_change_once_and_in_order
            a_feed_gives_pages_that_meet
            a_feed_waits_for_a_change_and_no_longer_than_its_deadline
            a_cursor_of_another_log_is_lost
        }
    };
    // Those of a store that keeps an audit log.
    (audit $store:ident, $spool:path) => {
        $crate::contract::conformance! { @ $store, $spool,
            the_audit_log_tells_who_changed_what
            the_audit_log_keeps_what_was_replaced
            the_audit_log_is_searched
            the_audit_log_is_bounded
            what_came_back_meanwhile_is_not_restored
        }
    };
    (@ $store:ident, $spool:path, $($case:ident)*) => {
        mod $store {
            $(#[test]
            fn $case() {
                crate::contract::$case(&$spool());
            })*
        }
    };
}
pub(crate) use conformance;

pub fn ctx() -> Context {
    Context::within(Duration::from_secs(20))
}

pub fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub fn time(seconds: i64, nanos: u32) -> Timestamp {
    Timestamp::new(seconds, nanos).unwrap()
}

const T0: i64 = 1_700_000_000;

pub fn message(name: &str, state: QueueState) -> MessageMetadata {
    MessageMetadata {
        state,
        attempts: 1,
        max_attempts: 12,
        next_retry: time(T0 + 900, 250_000_000),
        created: time(T0, 123_456_789),
        updated: time(T0 + 60, 987_654_321),
        last_error: "451 4.7.1 try again later".into(),
        size: i64::MAX,
        priority: -7,
        headers: [
            ("from", "a@example.org"),
            ("to", "<bob@\"example\".com> & 'Ä\u{0}☃'"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        retry_policy_name: "slow".into(),
        ..MessageMetadata::new(id(name))
    }
}

fn all() -> MessageListOptions {
    MessageListOptions::default()
}

fn names(store: &dyn Backend, state: QueueState, options: &MessageListOptions) -> Vec<String> {
    let listed = store.list_messages(&ctx(), state, options).unwrap();
    listed
        .message_ids
        .iter()
        .map(MessageId::to_string)
        .collect()
}

fn count(store: &dyn Backend, state: QueueState) -> u64 {
    store.state_info(&ctx(), state).unwrap().count
}
