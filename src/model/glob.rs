//! Patterns for text, as a shell's, that ignore case.

use std::fmt;
use std::str::FromStr;

/// A pattern that has to match a whole text: `*` stands for any characters, `?` for one, `[a-z]`
/// for one of a set and `[!a-z]` for one outside it; `\` takes the next character for itself.
/// Upper and lower case are the same.
///
/// ```
/// use retryspoolfs::model::Glob;
/// let glob: Glob = r"45? *Mailbox\*".parse().unwrap();
/// assert!(glob.matches("452 4.2.2 MAILBOX*"));
/// assert!(!glob.matches("452 4.2.2 mailbox full"));
/// assert!("[a".parse::<Glob>().is_err());
/// assert!(format!("*{}*", Glob::escape("[::1]")).parse::<Glob>().unwrap().matches("at [::1]:25"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Any,
    One,
    /// In lower case.
    Char(char),
    /// Ranges, both ends included, in the case they were written in.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Whether the pattern matches the whole text.
    pub fn matches(&self, text: &str) -> bool {
        // On a mismatch only the last `*` takes one character more: what earlier ones took can
        // stay, so the time is at most length times length.
        let mut rest = text.chars();
        let mut at = 0;
        let mut star = None;
        loop {
            let here = rest.clone();
            let next = rest.next();
            match (self.parts.get(at), next) {
                (Some(Part::Any), _) => {
                    star = Some((at + 1, here.clone()));
                    at += 1;
                    rest = here;
                    continue;
                }
                (None, None) => return true,
                (Some(part), Some(c)) if part.takes(c) => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let Some((after, from)) = &mut star else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            at = *after;
            rest = from.clone();
        }
    }

    /// The pattern that matches this text alone.
    pub fn escape(text: &str) -> String {
        let mut pattern = String::with_capacity(text.len());
        for c in text.chars() {
            if matches!(c, '*' | '?' | '[' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern
    }

    /// Whether some text may be matched by both. Never wrong about "no"; of patterns with `?` or
    /// sets it may say "yes" where there is none.
    pub fn overlaps(&self, other: &Glob) -> bool {
        let (ours, theirs) = (&self.parts, &other.parts);
        let width = theirs.len() + 1;
        let mut seen = vec![false; (ours.len() + 1) * width];
        let mut open = vec![(0, 0)];
        while let Some((a, b)) = open.pop() {
            if a == ours.len() && b == theirs.len() {
                return true;
            }
            if std::mem::replace(&mut seen[a * width + b], true) {
                continue;
            }
            match (ours.get(a), theirs.get(b)) {
                // A `*` ends here, or takes what the other has next.
                (Some(Part::Any), other) => {
                    open.push((a + 1, b));
                    open.extend(other.map(|_| (a, b + 1)));
                }
                (other, Some(Part::Any)) => {
                    open.push((a, b + 1));
                    open.extend(other.map(|_| (a + 1, b)));
                }
                (Some(Part::Char(a_char)), Some(Part::Char(b_char))) if a_char != b_char => {}
                (Some(_), Some(_)) => open.push((a + 1, b + 1)),
                _ => {}
            }
        }
        false
    }

    /// A character as patterns compare it: what differs only in case becomes the same.
    pub fn fold(c: char) -> char {
        lower(c)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Any => false,
            Part::One => true,
            Part::Char(wanted) => *wanted == lower(c),
            Part::Set { negated, ranges } => {
                let has = |c: char| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                (has(c) || has(lower(c)) || has(upper(c))) != *negated
            }
        }
    }
}

fn lower(c: char) -> char {
    match c.is_ascii() {
        true => c.to_ascii_lowercase(),
        false => only(c.to_lowercase(), c),
    }
}

fn upper(c: char) -> char {
    only(c.to_uppercase(), c)
}

/// The other case, where it is one character.
fn only(mut cased: impl Iterator<Item = char>, c: char) -> char {
    match (cased.next(), cased.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '[' => set(&mut chars)?,
                '\\' => match chars.next() {
                    Some(c) => Part::Char(lower(c)),
                    None => return Err(r"nothing follows the last \; write \\ for one".into()),
                },
                c => Part::Char(lower(c)),
            });
        }
        parts.dedup_by(|a, b| *a == Part::Any && *b == Part::Any);
        let text = text.to_owned();
        Ok(Glob { text, parts })
    }
}

/// What follows a `[`, up to its `]`. A `]` that comes first is a character.
fn set(chars: &mut std::str::Chars<'_>) -> Result<Part, String> {
    let unclosed = || r"a [ has no ]; write \[ for the character".to_owned();
    let mut negated = false;
    let mut ranges: Vec<(char, char)> = Vec::new();
    if let Some('!' | '^') = chars.clone().next() {
        chars.next();
        negated = true;
    }
    loop {
        let mut from = chars.next().ok_or_else(unclosed)?;
        if from == ']' && !ranges.is_empty() {
            return Ok(Part::Set { negated, ranges });
        }
        if from == '\\' {
            from = chars.next().ok_or_else(unclosed)?;
        }
        let mut ahead = chars.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) if to != ']' => {
                *chars = ahead;
                if to < from {
                    return Err(format!("[{from}-{to}] is empty: write [{to}-{from}]"));
                }
                ranges.push((from, to));
            }
            _ => ranges.push((from, from)),
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        pattern.parse::<Glob>().unwrap().matches(text)
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a\nb"),
            ("**a**", "bab"),
            ("a*b*c", "aXbXbXc"),
            ("*ab", "aab"),
            ("?", "☃"),
            ("ÄÖ", "äö"),
            ("[a-c]x", "BX"),
            ("[A-C]x", "bx"),
            ("[!a-c]", "d"),
            ("[^a]", "b"),
            ("[]]", "]"),
            ("[]-]", "-"),
            ("[a-]", "-"),
            (r"[\]]", "]"),
            (r"\*\?\[", "*?["),
            ("*timeout*", "421 Error: Timeout exceeded"),
        ] {
            assert!(matches(pattern, text), "{pattern:?} {text:?}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a*b", "abc"),
            ("?", ""),
            ("?", "ab"),
            ("[!a-c]", "B"),
            (r"\*", "a"),
            ("timeout", "a timeout"),
        ] {
            assert!(!matches(pattern, text), "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for pattern in ["[", "[a", "[]", "[!]", "[z-a]", "a\\", "[a\\"] {
            assert!(pattern.parse::<Glob>().is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_match_nothing_in_common_do_not_overlap() {
        let overlap = |one: &str, other: &str| {
            one.parse::<Glob>()
                .unwrap()
                .overlaps(&other.parse().unwrap())
        };
        assert!(!overlap("451 *", "452 *"));
        assert!(!overlap("a*b", "a*c"));
        assert!(!overlap("abc", "ab"));
        assert!(!overlap("*x*y", "abz"));
        assert!(overlap("*x*y", "axby"));
        assert!(overlap("a*", "*b"));
        assert!(overlap("", "*"));
    }

    /// The definition, without a thought for its time.
    fn defined(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], text) => (0..=text.len()).any(|taken| defined(rest, &text[taken..])),
            (['?', rest @ ..], [_, text @ ..]) => defined(rest, text),
            ([c, rest @ ..], [t, text @ ..]) => c.eq_ignore_ascii_case(t) && defined(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(pattern in "[ab*?]{0,8}", text in "[abAB]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), defined(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn what_two_patterns_match_both_overlaps(one in "[ab*]{0,6}", other in "[ab*]{0,6}", text in "[ab]{0,6}") {
            if matches(&one, &text) && matches(&other, &text) {
                let glob = |text: &str| text.parse::<Glob>().unwrap();
                prop_assert!(glob(&one).overlaps(&glob(&other)));
            }
        }

        #[test]
        fn an_escaped_text_matches_itself_alone(text in ".{0,12}", other in ".{0,12}") {
            let pattern = Glob::escape(&text);
            prop_assert!(matches(&pattern, &text));
            if text.to_lowercase() != other.to_lowercase() && text.to_uppercase() != other.to_uppercase() {
                prop_assert!(!matches(&pattern, &other));
            }
        }
    }
}
