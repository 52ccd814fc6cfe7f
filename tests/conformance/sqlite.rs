//! What the SQLite store promises beyond the contract.

mod checked;
mod commit;
mod crash;
mod disk;
mod feed;
mod foreign;
mod oracle;
mod preparation;
mod refused;
pub mod support;
