//! What was measured: summaries, the table and the chart.

use std::fmt::Write;
use std::time::Duration;

/// What one operation took on one system.
pub struct Result {
    pub operation: String,
    pub system: &'static str,
    /// By round: what each call took.
    pub rounds: Vec<Vec<Duration>>,
}

/// The figures of a [`Result`], in seconds.
struct Summary {
    median: f64,
    mean: f64,
    p99: f64,
    /// The least and the greatest median of a round.
    spread: (f64, f64),
}

fn seconds_sorted(calls: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut seconds: Vec<f64> = calls.map(|call| call.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn at(sorted: &[f64], part: f64) -> f64 {
    let place = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

impl Result {
    fn summary(&self) -> Summary {
        let all = seconds_sorted(self.rounds.iter().flatten().copied());
        let medians: Vec<f64> = self
            .rounds
            .iter()
            .map(|round| at(&seconds_sorted(round.iter().copied()), 0.5))
            .collect();
        Summary {
            median: at(&all, 0.5),
            mean: all.iter().sum::<f64>() / all.len() as f64,
            p99: at(&all, 0.99),
            spread: (
                medians.iter().copied().fold(f64::INFINITY, f64::min),
                medians.iter().copied().fold(0.0, f64::max),
            ),
        }
    }
}

fn shown(seconds: f64) -> String {
    match seconds {
        0.0..0.01 => format!("{:.1} us", seconds * 1e6),
        0.01..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// The system that an operation's others are compared with: the first of these that has it.
const BASES: [&str; 3] = ["floor", "raw SQLite", "ext4"];

fn base(results: &[Result], operation: &str) -> Option<(&'static str, f64)> {
    BASES.iter().find_map(|base| {
        let mut all = results.iter();
        let found = all.find(|r| r.operation == operation && r.system == *base)?;
        Some((*base, found.summary().median))
    })
}

/// The results of one operation side by side, the operations in the order in which they were begun.
fn grouped(results: &[Result]) -> Vec<&Result> {
    let begun = |result: &&Result| {
        let mut all = results.iter();
        all.position(|first| first.operation == result.operation)
    };
    let mut grouped: Vec<&Result> = results.iter().collect();
    grouped.sort_by_key(begun);
    grouped
}

/// A table in Markdown.
pub fn table(results: &[Result]) -> String {
    let mut text = String::from(
        "| operation | system | median | mean | 99 % | rounds' medians | ratio |\n|---|---|--:|--:|--:|--:|--:|\n",
    );
    for result in grouped(results) {
        let s = result.summary();
        let ratio = match base(results, &result.operation) {
            Some((base, median)) if base != result.system => {
                format!("{:.2} x {base}", s.median / median)
            }
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} to {} | {ratio} |",
            result.operation,
            result.system,
            shown(s.median),
            shown(s.mean),
            shown(s.p99),
            shown(s.spread.0),
            shown(s.spread.1),
        );
    }
    text
}

const COLORS: [(&str, &str); 7] = [
    ("mount", "#1f6f8b"),
    ("mount, RetrySpool's indexes", "#7fb7c9"),
    ("floor", "#8d8d8d"),
    ("ext4", "#c9822b"),
    ("tmpfs", "#e6c28f"),
    ("library", "#3f7d3a"),
    ("raw SQLite", "#a9cf9f"),
];

/// A chart in SVG: medians on a logarithmic scale, a group of bars for each operation.
pub fn chart(results: &[Result], title: &str) -> String {
    const LEFT: f64 = 290.0;
    const WIDTH: f64 = 610.0;
    const BAR: f64 = 9.0;
    let x = |seconds: f64| LEFT + WIDTH * ((seconds.log10() + 7.0) / 9.0).clamp(0.0, 1.0);
    let mut body = String::new();
    let mut y = 62.0;
    let mut last = "";
    for result in grouped(results) {
        if result.operation != last {
            y += 8.0;
            let name = result.operation.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{}" text-anchor="end">{name}</text>"#,
                LEFT - 6.0,
                y + 8.0
            );
            last = &result.operation;
        }
        let median = result.summary().median;
        let color = COLORS.iter().find(|(system, _)| *system == result.system);
        let color = color.map_or("#000", |(_, color)| color);
        let (from, to) = (x(1e-7), x(median));
        let _ = writeln!(
            body,
            r#"<rect x="{from}" y="{y}" width="{:.1}" height="{}" fill="{color}"/><text x="{:.1}" y="{}" class="n">{}</text>"#,
            to - from,
            BAR - 1.0,
            to + 4.0,
            y + 7.5,
            shown(median)
        );
        y += BAR;
    }
    let mut head = format!(r#"<text x="10" y="20" class="t">{title}</text>"#);
    for (n, (system, color)) in COLORS.iter().enumerate() {
        let left = 10.0 + n as f64 * 125.0;
        let _ = write!(
            head,
            r#"<rect x="{left}" y="32" width="10" height="10" fill="{color}"/><text x="{}" y="41">{}</text>"#,
            left + 14.0,
            system.replace("RetrySpool's ", "")
        );
    }
    let mut grid = String::new();
    for power in -7..=2 {
        let at = x(10f64.powi(power));
        let _ = write!(
            grid,
            r##"<line x1="{at}" x2="{at}" y1="58" y2="{y}" stroke="#ddd"/><text x="{at}" y="56" text-anchor="middle" class="n">{}</text>"##,
            [
                "100 ns", "1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s", "10 s",
                "100 s"
            ][(power + 7) as usize]
        );
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {h}" font-family="sans-serif" font-size="10">
<style>.t{{font-size:13px;font-weight:bold}}.n{{font-size:8px;fill:#555}}</style>
<rect width="960" height="{h}" fill="#fff"/>
{head}{grid}
{body}</svg>
"##,
        h = y + 12.0
    )
}
