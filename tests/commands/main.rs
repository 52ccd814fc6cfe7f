//! The commands, as an operator runs them: the built program on real spools.
//!
//! What a test expects is written as the lines that the program prints, or as what another program
//! finds in the spool afterwards.

#[allow(
    dead_code,
    unused_imports,
    reason = "the tests of the mount use the rest"
)]
#[path = "../mount/support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the tests of the filesystem use the rest")]
#[path = "../spool/steps.rs"]
mod steps;

mod changing;
mod filters;
mod looks;
mod naming;
mod pipe;
mod places;
mod put;
mod recipes;
mod top;
mod transfer;
mod transfer_races;
mod undoing;
mod upkeep;
