//! What an operator sees of a queue as a whole, over any store: how full it is and how it flows,
//! how old its messages are, why they wait.
//!
//! Owns: the figures behind `status`, `age`, `reasons` and `top`, and the thresholds of a
//! monitoring check; the line of an event.
//! May fail: with the store's errors.
//! Must not know: terminals, command lines, the kernel.

mod age;
mod event;
mod reason;
mod status;
mod threshold;
mod traffic;

pub use age::{AgeRow, AgeTable, BUCKETS, Side};
pub use event::{event_line, lost_line};
pub use reason::{Reason, ReasonKey, Reasons};
pub use status::{StateStatus, Status};
pub use threshold::{Level, Measured, Thresholds};
pub use traffic::{Traffic, WAITING};
