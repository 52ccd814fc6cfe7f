//! What the SQLite store promises beyond the contract.

mod foreign;
mod oracle;
pub mod support;
