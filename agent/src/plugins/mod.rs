//! Plugins: from files to sources that run, each on its own thread and each with a state that an operator can read.
//!
//! [`directory`] finds the files and says what becomes of each, [`watch`] does so while the agent runs, when [`looks`] says and nobody has them [`open`]; [`trust`] refuses what others may write to; [`copy`] keeps private copies; [`load`] opens one and judges its ABI; [`host`] is a process
//! for one plugin, [`exec`] an executable as a source, whose first line [`interpreter`] reads and which [`warden`] watches over; [`memory`] is what they have of it; [`source`] runs a source on a thread; [`supervise`] decides when it is asked and what its answers mean, and [`pace`] how often the log hears of it; [`running`] is all
//! of them together. A source that hangs, crashes or fails costs nobody else anything but its own metrics.

pub mod copy;
pub mod directory;
mod elf;
pub mod exec;
pub mod host;
mod interpreter;
pub mod load;
pub mod looks;
mod memory;
mod open;
mod pace;
pub mod running;
pub mod source;
pub mod supervise;
pub mod trust;
mod warden;
pub mod watch;
