//! The intake: messages come in over MQTT, are checked, and are acknowledged once the store has them on disk.
//!
//! [`accept`] is the one way in, whatever the transport: decode → check → group → commit → acknowledge. Two transports feed it: [`listen`] is an MQTT
//! endpoint of our own for devices that connect here; [`subscribe`] reads from a broker. [`feed`] hands on what was committed.

pub mod accept;
pub mod feed;
pub mod listen;
pub mod subscribe;
mod write;

pub use accept::{
    BrokerStatus, Intake, IntakeSettings, IntakeStatus, Outcome, Publish, WriterGuard,
};
pub use listen::{Limits, Listener, Receiving};
pub use subscribe::BrokerSettings;
