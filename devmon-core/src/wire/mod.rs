//! What travels over MQTT, as bytes and as words: device ids, topics, messages, and the closed list of reasons for refusing them.
//!
//! Everything here is pure: bytes in, values out, with bounded work and memory whatever the bytes are, and never a panic. The byte formats are
//! described in `docs/protocol.md`.

pub mod about;
pub mod device;
pub mod flat;
pub mod json;
pub mod labels;
pub mod message;
pub mod pack;
pub mod refusal;
pub mod time;
pub mod topic;

pub use about::{About, Status};
pub use device::DeviceId;
pub use flat::{FlatFrame, FlatMessage, Shape};
pub use labels::Labels;
pub use message::{Frame, Message, MessageId};
pub use refusal::{Reason, Refusal};
pub use time::TimestampMs;
pub use topic::{TopicKind, TopicScheme};
