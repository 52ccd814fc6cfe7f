//! Whose messages are how old: Postfix's qshape.

use std::collections::{BTreeSet, HashMap};

use crate::model::{MessageMetadata, Timestamp};

/// Up to which age in minutes a message is in each bucket but the last.
pub const BUCKETS: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// Whose domain counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// That of the header "to".
    #[default]
    Recipient,
    /// That of the header "from".
    Sender,
}

/// One domain's messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgeRow {
    /// In lower case; empty for messages without an address.
    pub domain: String,
    /// How many.
    pub count: u64,
    /// How many in each bucket, those older than all of [`BUCKETS`] last.
    pub buckets: [u64; BUCKETS.len() + 1],
}

/// Counts messages by domain and age. Its memory grows with the number of domains.
#[derive(Clone, Debug)]
pub struct AgeTable {
    side: Side,
    now: Timestamp,
    total: AgeRow,
    domains: HashMap<String, AgeRow>,
}

impl AgeTable {
    /// An empty table of ages at `now`.
    pub fn new(side: Side, now: Timestamp) -> AgeTable {
        AgeTable {
            side,
            now,
            total: AgeRow::default(),
            domains: HashMap::new(),
        }
    }

    /// Counts a message: once for each domain that it has addresses of, and once in the total.
    pub fn add(&mut self, message: &MessageMetadata) {
        let minutes = self.now.since(message.created).as_secs_f64() / 60.0;
        let older = |bound: &&u64| minutes > **bound as f64;
        let bucket = BUCKETS.iter().take_while(older).count();
        let header = match self.side {
            Side::Recipient => "to",
            Side::Sender => "from",
        };
        let named = message.headers.iter();
        let mut named = named.filter(|(name, _)| name.eq_ignore_ascii_case(header));
        let domains = named.next().map(|(_, value)| domains(value));
        for domain in domains.unwrap_or_else(|| [String::new()].into()) {
            let row = self.domains.entry(domain).or_default();
            row.count += 1;
            row.buckets[bucket] += 1;
        }
        self.total.count += 1;
        self.total.buckets[bucket] += 1;
    }

    /// All messages, whatever the domain.
    pub fn total(&self) -> &AgeRow {
        &self.total
    }

    /// The domains, those with most messages first.
    pub fn rows(&self) -> Vec<AgeRow> {
        let rows = self.domains.iter();
        let mut rows: Vec<AgeRow> = rows
            .map(|(domain, row)| AgeRow {
                domain: domain.clone(),
                ..row.clone()
            })
            .collect();
        rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.domain.cmp(&b.domain)));
        rows
    }
}

/// The domains of a header's addresses; an empty text where there is none.
fn domains(header: &str) -> BTreeSet<String> {
    let domain = |address: &str| {
        let (_, behind) = address.rsplit_once('@')?;
        let end = behind.find(|c: char| c == '>' || c.is_whitespace());
        let domain = behind[..end.unwrap_or(behind.len())].trim_end_matches('.');
        Some(domain.to_lowercase())
    };
    let mut found: BTreeSet<String> = header.split(',').filter_map(domain).collect();
    if found.is_empty() {
        found.insert(String::new());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn messages_are_counted_by_domain_and_age() {
        let now = Timestamp::now();
        let mut table = AgeTable::new(Side::Recipient, now);
        for (to, minutes) in [
            ("a@X.example", 0),
            ("Bob <b@x.example.>", 5),
            ("a@x.example, b@x.example,c@y.example", 6),
            ("a@y.example", 1280),
            ("postmaster", 100_000),
        ] {
            table.add(&MessageMetadata {
                created: now.saturating_sub(Duration::from_secs(minutes * 60)),
                headers: [("To".to_owned(), to.to_owned())].into(),
                ..MessageMetadata::new("a".parse().unwrap())
            });
        }
        let rows: Vec<(String, u64, [u64; 10])> = table
            .rows()
            .into_iter()
            .map(|row| (row.domain, row.count, row.buckets))
            .collect();
        assert_eq!(
            rows,
            [
                ("x.example".to_owned(), 3, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
                ("y.example".to_owned(), 2, [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]),
                (String::new(), 1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ]
        );
        assert_eq!(table.total().count, 5);
        let mut table = AgeTable::new(Side::Sender, now);
        table.add(&MessageMetadata::new("a".parse().unwrap()));
        assert_eq!(table.rows()[0].domain, "");
    }
}
