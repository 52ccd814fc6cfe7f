//! Random operations against a model: plain maps that say what the store must hold, and what each
//! operation must answer. What was found once has a named test of its own, here or beside this
//! file. `PROPTEST_CASES=5000` looks longer.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use proptest::prelude::*;
use retryspoolfs::spool::Caller;
use retryspoolfs::{QueueState, document};

use super::common::*;
use case::Case;

#[path = "model/case.rs"]
mod case;
#[path = "model/expected.rs"]
mod expected;
#[path = "model/writers.rs"]
mod writers;

const NAMES: [&str; 3] = ["a", "b", "c"];
const SCRATCHES: [&str; 2] = ["s", "t~"];

/// The other process, for all cases.
static OTHER: LazyLock<Other> = LazyLock::new(Other::start);

/// The store, for all cases, one after the other.
static FILE: LazyLock<Mutex<Arc<StoreFile>>> =
    LazyLock::new(|| Mutex::new(Arc::new(StoreFile::new())));

fn caller(process: usize) -> Caller {
    if process == 0 { me() } else { OTHER.caller() }
}

/// The Updated that a document carries.
#[derive(Clone, Copy, Debug)]
enum Given {
    Absent,
    /// What is stored when the document is written.
    Current,
    /// An earlier revision, so many back.
    Earlier(usize),
    /// Long before all revisions.
    Ancient,
    /// A moment past the stored one.
    Newer,
    Future,
}

/// What somebody writes.
#[derive(Clone, Copy, Debug)]
enum Text {
    Whole(Given, Option<i64>),
    /// The first half of a document.
    Half,
    UnknownKey,
    OtherId,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(usize, usize, QueueState, bool, bool),
    Open(usize, usize, QueueState, bool, bool),
    Write(usize, Text),
    Truncate(usize),
    /// A close by the opener, or by the other process.
    Flush(usize, bool),
    Fsync(usize, usize),
    Release(usize),
    ReadBack(usize),
    Lookup(usize, usize, QueueState),
    List(QueueState),
    Move(usize, usize, QueueState, QueueState, bool, bool),
    MoveToOtherId(usize, QueueState),
    Unlink(usize, usize, QueueState),
    /// A scratch file is written anew, with a document of that ID.
    Scratch(usize, usize, Text),
    Place(usize, usize, usize, QueueState, bool),
    CopyAside(usize, usize, QueueState, usize, bool),
    RenameScratch(usize, usize, usize, bool),
    UnlinkScratch(usize),
    /// RetrySpool's statements: state, attempts, and how long ago its clock says it is.
    Replace(usize, QueueState, i64, i64),
    Update(usize, QueueState, QueueState, i64),
    /// Through another connection of the library.
    Change(usize),
    Remove(usize),
}

fn file(id: usize) -> String {
    format!("{}.json", NAMES[id])
}

fn play(ops: &[Op]) {
    let store = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut case = Case::new(&store);
    for op in ops {
        case.run(op);
        case.check(op);
    }
    while !case.model.handles.is_empty() {
        case.release(0);
        case.check(&Op::Release(0));
    }
    case.m.assert_counts_agree();
    assert_eq!(case.m.spool.inode_count(), 0);
    let lines = case.m.errors();
    assert_eq!(lines.lines().count(), case.model.lines, "{lines}");
    for (id, message) in &case.model.messages {
        let text = String::from_utf8(document::render(&case.m.stored(NAMES[*id]).unwrap()));
        let shown = case.m.read(&me(), message.state, &file(*id));
        match case.model.hides(*id, message.state, 0) || message.state == Archived {
            true => {}
            false => assert_eq!(shown.unwrap(), text.unwrap()),
        }
    }
}

fn shown() -> impl Strategy<Value = QueueState> {
    prop_oneof![4 => Just(Hold), 2 => Just(Deferred), 1 => Just(Active)]
}

fn any_state() -> impl Strategy<Value = QueueState> {
    prop_oneof![4 => Just(Hold), 2 => Just(Deferred), 1 => Just(Archived)]
}

fn text() -> impl Strategy<Value = Text> {
    let given = prop_oneof![
        3 => Just(Given::Absent),
        3 => Just(Given::Current),
        2 => (0usize..3).prop_map(Given::Earlier),
        1 => Just(Given::Ancient),
        1 => Just(Given::Newer),
        1 => Just(Given::Future),
    ];
    let priority = proptest::option::weighted(0.8, 1i64..4);
    prop_oneof![
        8 => (given, priority).prop_map(|(given, priority)| Text::Whole(given, priority)),
        1 => Just(Text::Half),
        1 => Just(Text::UnknownKey),
        1 => Just(Text::OtherId),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let id = || prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    let by = || 0usize..2;
    let n = || 0usize..6;
    let yes = any::<bool>;
    let rarely = || proptest::bool::weighted(0.1);
    let ago = || prop_oneof![Just(0i64), Just(3), Just(7200)];
    prop_oneof![
        4 => (by(), id(), shown(), yes(), yes()).prop_map(|(a, b, c, d, e)| Op::Create(a, b, c, d, e)),
        4 => (by(), id(), shown(), yes(), yes()).prop_map(|(a, b, c, d, e)| Op::Open(a, b, c, d, e)),
        8 => (n(), text()).prop_map(|(a, b)| Op::Write(a, b)),
        1 => n().prop_map(Op::Truncate),
        6 => (n(), proptest::bool::weighted(0.7)).prop_map(|(a, b)| Op::Flush(a, b)),
        1 => (n(), by()).prop_map(|(a, b)| Op::Fsync(a, b)),
        4 => n().prop_map(Op::Release),
        1 => n().prop_map(Op::ReadBack),
        3 => (by(), id(), shown()).prop_map(|(a, b, c)| Op::Lookup(a, b, c)),
        1 => shown().prop_map(Op::List),
        3 => (by(), id(), shown(), shown(), yes(), rarely()).prop_map(|(a, b, c, d, e, f)| Op::Move(a, b, c, d, e, f)),
        1 => (id(), shown()).prop_map(|(a, b)| Op::MoveToOtherId(a, b)),
        3 => (by(), id(), shown()).prop_map(|(a, b, c)| Op::Unlink(a, b, c)),
        4 => (0usize..2, id(), text()).prop_map(|(a, b, c)| Op::Scratch(a, b, c)),
        5 => (by(), 0usize..2, id(), shown(), yes()).prop_map(|(a, b, c, d, e)| Op::Place(a, b, c, d, e)),
        4 => (by(), id(), shown(), 0usize..2, yes()).prop_map(|(a, b, c, d, e)| Op::CopyAside(a, b, c, d, e)),
        1 => (by(), 0usize..2, 0usize..2, yes()).prop_map(|(a, b, c, d)| Op::RenameScratch(a, b, c, d)),
        1 => (0usize..2).prop_map(Op::UnlinkScratch),
        3 => (id(), any_state(), 0i64..3, ago()).prop_map(|(a, b, c, d)| Op::Replace(a, b, c, d)),
        2 => (id(), any_state(), any_state(), ago()).prop_map(|(a, b, c, d)| Op::Update(a, b, c, d)),
        2 => id().prop_map(Op::Change),
        1 => id().prop_map(Op::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_operations_do_what_the_model_says(ops in proptest::collection::vec(op(), 1..50)) {
        play(&ops);
    }
}

/// The store goes on from the revision of what it removed just before.
#[test]
fn a_message_removed_and_made_again_is_later_than_the_removed_one() {
    play(&[
        Op::Create(0, 0, Hold, false, false),
        Op::Replace(0, Hold, 0, 0),
        Op::Unlink(1, 0, Hold),
        Op::Write(0, Text::Whole(Given::Ancient, None)),
    ]);
}

#[test]
fn an_older_copy_of_its_own_does_not_undo_another_ones_change() {
    let (write, close) = (
        |given, priority| Op::Write(0, Text::Whole(given, Some(priority))),
        [Op::Flush(0, true), Op::Release(0)],
    );
    let open = Op::Open(0, 0, Hold, true, true);
    let first = [Op::Replace(0, Hold, 0, 0), open, write(Given::Current, 1)];
    let second = [Op::Change(0), open, write(Given::Current, 2)];
    let third = [open, write(Given::Earlier(2), 3)];
    let ops = [&first[..], &close, &second, &close, &third, &close].concat();
    play(&ops);
}
