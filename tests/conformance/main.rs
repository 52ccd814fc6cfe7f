//! The store's contract, and what each store promises beyond it.
//!
//! `contract` holds a case for each sentence of the traits' documentation, as functions over any
//! store; a store that is added runs them all by one line here.

mod contract;
mod dir;
mod small_disk;
mod sqlite;

contract::conformance!(sqlite_contract, crate::sqlite::support::spool);
contract::conformance!(audit sqlite_audit, crate::sqlite::support::spool);
contract::conformance!(dir_contract, crate::dir::support::spool);
contract::conformance!(
    dir_without_inotify_contract,
    crate::dir::support::spool_without_inotify
);
