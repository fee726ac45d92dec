//! Plugins: from files to sources that run, each on its own thread and each with a state that an operator can read.
//!
//! [`directory`] lists the files; [`load`] opens one and judges its ABI; [`source`] runs a source on a thread; [`supervise`] decides when it is asked and what its
//! answers mean; [`running`] is all of them together. A source that hangs, panics or fails costs nobody else anything but its own metrics.

pub mod directory;
mod elf;
pub mod load;
pub mod running;
pub mod source;
pub mod supervise;
