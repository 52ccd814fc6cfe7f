//! Installed from the package, mounted through fstab, killed, mounted again: as an administrator
//! does, on a machine that is thrown away.
//!
//! Each test runs one script as root in a sandbox (see `sandbox.sh`): this machine's files under an
//! overlay, with processes and mounts of its own. A machine that can't do that fails the tests.

mod fstab;
mod killed;
mod package;
mod sandbox;
mod service;
