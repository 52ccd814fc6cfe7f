//! Why messages wait: their last errors, grouped by what they say.
//!
//! Two errors say the same if they differ only in what names one case: numbers, addresses, hosts,
//! queue IDs. The code of the reply and its enhanced code (RFC 3463) count as words.

use std::collections::HashMap;

use crate::model::{Glob, MessageId, MessageMetadata, QueueState, Timestamp};

/// How many groups are kept apart.
const GROUPS_MAX: usize = 10_000;
/// How much of an error is looked at, in characters.
const LENGTH_MAX: usize = 200;

/// What an error says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonKey {
    /// `451 4.7.1`, `550`, or nothing.
    pub code: String,
    /// What follows the code, with `*` for what names one case.
    pub text: String,
    /// The pattern that matches all errors that say this.
    pub pattern: String,
}

/// Messages whose last errors say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub key: ReasonKey,
    /// How many messages.
    pub count: u64,
    /// How many in each state, by its number.
    pub states: [u64; 6],
    /// The earliest Created among them.
    pub oldest: Timestamp,
    /// One of them.
    pub example: MessageId,
    /// Whether the pattern matches no error of another group. Otherwise it may select more.
    pub exact: bool,
}

/// Groups messages. Its memory grows with the number of groups, up to ten thousand of them.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    groups: HashMap<String, Reason>,
    rest: u64,
}

impl Reasons {
    /// Puts a message into its group.
    pub fn add(&mut self, message: &MessageMetadata) {
        let key = ReasonKey::of(&message.last_error);
        let folded: String = key.pattern.chars().map(Glob::fold).collect();
        let state = usize::from(message.state.number());
        if let Some(group) = self.groups.get_mut(&folded) {
            group.count += 1;
            group.states[state] += 1;
            group.oldest = group.oldest.min(message.created);
            return;
        }
        if self.groups.len() == GROUPS_MAX {
            self.rest += 1;
            return;
        }
        let mut states = [0; QueueState::ALL.len()];
        states[state] = 1;
        let group = Reason {
            key,
            count: 1,
            states,
            oldest: message.created,
            example: message.id.clone(),
            exact: false,
        };
        self.groups.insert(folded, group);
    }

    /// How many messages found no group, because there were too many.
    pub fn rest(&self) -> u64 {
        self.rest
    }

    /// The `limit` largest groups, the largest first; and how many groups there are.
    pub fn largest(&self, limit: usize) -> (Vec<Reason>, usize) {
        let mut groups: Vec<&Reason> = self.groups.values().collect();
        groups.sort_by(|a, b| {
            let by_text = || a.key.pattern.cmp(&b.key.pattern);
            b.count.cmp(&a.count).then_with(by_text)
        });
        let globs: Vec<Option<Glob>> = groups.iter().map(|g| g.key.glob()).collect();
        let alone = |at: usize| {
            let mut others = globs.iter().enumerate().filter(|(other, _)| *other != at);
            others.all(|(_, other)| match (&globs[at], other) {
                (Some(one), Some(other)) => !one.overlaps(other),
                _ => false,
            })
        };
        let shown = groups.iter().take(limit).enumerate();
        let shown = shown.map(|(at, group)| Reason {
            exact: self.rest == 0 && alone(at),
            ..(*group).clone()
        });
        (shown.collect(), groups.len())
    }
}

impl ReasonKey {
    /// What this error says.
    ///
    /// ```
    /// use retryspoolfs::overview::ReasonKey;
    /// let key = ReasonKey::of("451 4.7.1 <bob@example.org>: try again in 300 seconds");
    /// assert_eq!((&*key.code, &*key.text), ("451 4.7.1", "<*>: try again in * seconds"));
    /// assert_eq!(key.pattern, "451 4.7.1 <\\*>: try again in * seconds".replace('\\', ""));
    /// ```
    pub fn of(error: &str) -> ReasonKey {
        let (error, cut) = match error.char_indices().nth(LENGTH_MAX) {
            Some((end, _)) => (&error[..end], true),
            None => (error, false),
        };
        let words = words(error);
        let mut key = ReasonKey {
            code: String::new(),
            text: String::new(),
            pattern: String::new(),
        };
        let mut code_found = false;
        // Of a `*` that stands for something, not one of the text.
        let mut open = false;
        for (at, word) in words.iter().enumerate() {
            let is_code = !code_found && is_reply_code(&words, at);
            code_found |= is_code;
            let leads = is_code && at == 0 || is_enhanced_code(word) && leads_on(&words[..at]);
            if leads {
                let gap = if key.code.is_empty() { "" } else { " " };
                key.code.push_str(gap);
                key.code.push_str(word);
            }
            if is_code || is_enhanced_code(word) || !is_particular(word) {
                key.pattern.push_str(&Glob::escape(word));
                if !leads {
                    key.text.push_str(word);
                }
                open = false;
            } else if !open {
                key.leave_open();
                open = true;
            }
        }
        if cut && !open {
            key.leave_open();
        }
        key.text = key.text.trim_matches([' ', '-']).to_owned();
        key
    }

    fn leave_open(&mut self) {
        self.text.push('*');
        self.pattern.push('*');
    }

    fn glob(&self) -> Option<Glob> {
        self.pattern.parse().ok()
    }
}

/// Cuts a text into words and what is between them. All pieces together are the text.
fn words(text: &str) -> Vec<&str> {
    let between = |c: char| c.is_whitespace() || "<>()[]{}\"',;:|=*?\\`".contains(c);
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match between(first) {
            _ if with_colons(rest) > 0 => with_colons(rest),
            true => first.len_utf8(),
            // All but the last line of a reply have the code and a hyphen in front.
            false if pieces.is_empty() && begins_a_line(rest) => 3,
            false if rest.starts_with('-') => 1,
            false => {
                let end = rest.find(between).unwrap_or(rest.len());
                // A full stop ends a sentence, not a host's name.
                rest[..end]
                    .trim_end_matches(['.', '!'])
                    .len()
                    .max(first.len_utf8())
            }
        };
        pieces.push(&rest[..end]);
        rest = &rest[end..];
    }
    pieces
}

/// The length of an IPv6 address or a time of day that the text begins with.
fn with_colons(text: &str) -> usize {
    let part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    let word = text[..end].trim_end_matches([':', '.']);
    let goes_on = text[word.len()..].starts_with(|c: char| c.is_alphanumeric());
    let starts = !word.starts_with(':') || word.starts_with("::");
    let digit = word.bytes().any(|b| b.is_ascii_digit());
    match starts && digit && !goes_on && word.matches(':').count() >= 2 {
        true => word.len(),
        false => 0,
    }
}

fn begins_a_line(text: &str) -> bool {
    text.get(..3).is_some_and(is_three_digits) && text[3..].starts_with('-')
}

/// Whether nothing but codes and blanks stands before.
fn leads_on(before: &[&str]) -> bool {
    let mut before = before.iter().enumerate();
    before.all(|(at, word)| {
        matches!(*word, " " | "-") || is_enhanced_code(word) || at == 0 && is_three_digits(word)
    })
}

/// Whether the word is the code of a reply: it begins the text, follows a colon ("said: 550"), or
/// has an enhanced code behind it.
fn is_reply_code(words: &[&str], at: usize) -> bool {
    let begins = at == 0 || at >= 2 && words[at - 1] == " " && words[at - 2] == ":";
    let enhanced = || {
        let follow = (words.get(at + 1), words.get(at + 2));
        matches!(follow, (Some(&" "), Some(code)) if is_enhanced_code(code))
    };
    is_three_digits(words[at]) && (begins || enhanced())
}

fn is_three_digits(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() == 3 && matches!(bytes[0], b'2'..=b'5') && bytes.iter().all(u8::is_ascii_digit)
}

/// `4.7.1`: class, subject, detail.
fn is_enhanced_code(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let number =
        |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() == 3 && matches!(parts[0], "2" | "4" | "5") && parts.iter().all(number)
}

/// Whether the word names one case: it has a digit or an `@` in it, or is the name of a host.
fn is_particular(word: &str) -> bool {
    let is_host = || {
        let labels: Vec<&str> = word.split(['.', '/']).collect();
        let last = labels.last().copied().unwrap_or("");
        let label = |label: &&str| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !label.is_empty() && label.bytes().all(legal)
        };
        word.contains('.') && last.len() >= 2 && labels.iter().all(label)
    };
    word.contains('@') || word.bytes().any(|b| b.is_ascii_digit()) || is_host()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(error: &str) -> (String, String) {
        let key = ReasonKey::of(error);
        (key.code, key.text)
    }

    #[test]
    fn what_names_one_case_is_left_out() {
        for (error, code, text) in [
            ("", "", ""),
            ("452 4.2.2 Mailbox full", "452 4.2.2", "Mailbox full"),
            (
                "451 4.7.1 Greylisted, try again in 300 seconds",
                "451 4.7.1",
                "Greylisted, try again in * seconds",
            ),
            (
                "421 4.4.2 mx1.example.org Error: timeout exceeded",
                "421 4.4.2",
                "* Error: timeout exceeded",
            ),
            (
                "connect to mx.down.example.net[192.0.2.25]:25: Connection refused",
                "",
                "connect to *[*]:*: Connection refused",
            ),
            (
                "host mx.a.example[::1] said: 550 5.1.1 <bob@a.example>: User unknown",
                "",
                "host *[*] said: 550 5.1.1 <*>: User unknown",
            ),
            (
                "550-5.7.26 Unauthenticated",
                "550 5.7.26",
                "Unauthenticated",
            ),
            (
                "Message 3fA9c1 queued as 4XyZ12 at 10:15:00",
                "",
                "Message * queued as * at *",
            ),
            ("Try later. Thank you.", "", "Try later. Thank you."),
            (
                "450 4.1.1 Recipient address rejected: undeliverable address",
                "450 4.1.1",
                "Recipient address rejected: undeliverable address",
            ),
            ("554 no", "554", "no"),
        ] {
            assert_eq!(key(error), (code.to_owned(), text.to_owned()), "{error}");
        }
    }

    fn message(error: &str) -> MessageMetadata {
        MessageMetadata {
            last_error: error.into(),
            ..MessageMetadata::new("a".parse().unwrap())
        }
    }

    #[test]
    fn groups_are_counted_and_know_whether_they_overlap() {
        let mut reasons = Reasons::default();
        for error in [
            "451 try again in 5 seconds",
            "451 Try again in 70 seconds",
            "451 try again in a few seconds",
            "452 full",
        ] {
            reasons.add(&message(error));
        }
        let (groups, all) = reasons.largest(9);
        assert_eq!(all, 3);
        let found: Vec<(u64, bool, &str)> = groups
            .iter()
            .map(|group| (group.count, group.exact, group.key.pattern.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (2, false, "451 try again in * seconds"),
                // Its pattern matches nothing else, but the larger one's matches it.
                (1, false, "451 try again in a few seconds"),
                (1, true, "452 full"),
            ]
        );
        assert_eq!(reasons.largest(1).0.len(), 1);
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_of(error in "([45][0-9]{2} )?([a-zA-Z*?\\[\\]\\\\<>@.: \u{e4}-]|[0-9]| [a-z]+\\.example){0,40}") {
            let glob: Glob = ReasonKey::of(&error).pattern.parse().unwrap();
            prop_assert!(glob.matches(&error));
        }

        #[test]
        fn groups_that_are_exact_select_their_own(
            errors in prop::collection::vec("(a|1|\\*| |b1|A){0,6}", 1..12)
        ) {
            let mut reasons = Reasons::default();
            errors.iter().for_each(|error| reasons.add(&message(error)));
            for group in reasons.largest(99).0 {
                let glob: Glob = group.key.pattern.parse().unwrap();
                let selected = errors.iter().filter(|error| glob.matches(error)).count() as u64;
                prop_assert!(selected >= group.count);
                prop_assert!(!group.exact || selected == group.count, "{:?}", group);
            }
        }
    }
}
