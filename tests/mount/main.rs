//! Real mounts, driven by real tools.
//!
//! Each test makes a spool of its own, mounts it with the built program, does what an operator or
//! a script would do, and looks at what is stored. A machine that cannot mount fails; nothing here
//! is skipped. The tests act as several users, so they run as root.

mod badinput;
mod caching;
mod closes;
mod directory;
mod lifecycle;
mod moves;
mod others;
mod race;
mod scratch;
mod soak;
#[allow(
    dead_code,
    unused_imports,
    reason = "the tests of commands and tools use the rest"
)]
mod support;
mod tree;
mod watched;
mod writes;
