//! The MQTT protocol of one connection, as server: bytes in, words of ours out, and bytes to send. The only file that knows mqtt-protocol-core.
//!
//! It answers by itself what needs no decision: pings, subscriptions (refused: this is no broker), malformed packets. Connecting, publishing and closing it hands
//! over. It does no I/O, keeps no clock, and acknowledges nothing unless it is told to. MQTT 3.1.1 and 5; QoS 0 and 1; retain flags and user properties are
//! ignored.

use std::time::Duration;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::ArcPayload;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{Connection, ConnectionOptions, Event, TimerKind, role};
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, GenericPacketTrait, MaximumPacketSize, MaximumQos, Packet, Property,
    Qos, ReceiveMaximum, SessionExpiryInterval, SharedSubscriptionAvailable,
    SubscriptionIdentifierAvailable, TopicAliasMaximum, WildcardSubscriptionAvailable, v3_1_1,
    v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode,
    SubackReturnCode, UnsubackReasonCode,
};

/// Topic aliases that a client of MQTT 5 may use: a device has three topics.
const TOPIC_ALIASES: u16 = 16;

/// What a client said that needs a decision.
#[derive(Debug)]
pub(super) enum Incoming {
    Connect(Connect),
    Publish(Publish),
    /// A graceful end. `with_will`: MQTT 5 lets a client ask for its will even so.
    Disconnect {
        with_will: bool,
    },
}

#[derive(Debug)]
pub(super) struct Connect {
    /// May be empty: then it wants to be given one.
    pub(super) client_id: String,
    pub(super) will: Option<Will>,
}

/// What is published in the client's name if it is lost.
#[derive(Debug, Clone)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Bytes,
}

#[derive(Debug)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// What must be given to [`Protocol::acknowledge`]; `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
}

/// Why the connection must be closed, once the output is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) String);

/// Why we close. A client of MQTT 5 is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Another connection has the same client id.
    TakenOver,
    /// The store takes nothing now.
    Busy,
    ShuttingDown,
    /// The device was forgotten: it shall come again, and say who it is.
    Forgotten,
}

/// One connection's state.
pub(super) struct Protocol {
    connection: Connection<role::Server>,
    output: Vec<u8>,
    receive_maximum: u16,
    packet_bytes: u32,
    /// 1.5 times what the client promised; `None`: it promised nothing.
    silence: Option<Duration>,
    /// A packet came since the last look: the client lives.
    heard: bool,
}

impl Protocol {
    /// `receive_maximum`: publishes in flight that a client of MQTT 5 is allowed; `packet_bytes`: largest packet that is read.
    pub(super) fn new(receive_maximum: u16, packet_bytes: u32) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(packet_bytes);
        let mut connection = Connection::with_options(Version::Undetermined, options);
        connection.set_auto_ping_response(true);
        Self {
            connection,
            output: Vec::new(),
            receive_maximum: receive_maximum.max(1),
            packet_bytes,
            silence: None,
            heard: false,
        }
    }

    /// Reads from the front of `input`, up to the next thing that needs a decision. `None`: all was read, more is needed.
    ///
    /// # Errors
    /// [`Broken`]: close the connection, after sending the output.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Broken> {
        while !input.is_empty() {
            let mut cursor = Cursor::new(*input);
            let events = self.connection.recv(&mut cursor);
            let read = usize::try_from(cursor.position()).unwrap_or(input.len());
            *input = input.get(read..).unwrap_or_default();
            if let Some(incoming) = self.events(events)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// How long the client may be silent, if that is limited.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.silence
    }

    /// True if a packet has come since this was last asked.
    pub(super) fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// The client was silent for too long: says so.
    pub(super) fn silent_too_long(&mut self) {
        let events = self.connection.notify_timer_fired(TimerKind::PingreqRecv);
        self.send_only(events);
    }

    /// Bytes to be sent, which are taken.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Answers CONNECT by yes. `assigned`: the id that the client was given.
    pub(super) fn welcome(&mut self, assigned: Option<&str>) -> Result<(), Broken> {
        let packet: Packet = match self.connection.get_protocol_version() {
            Version::V5_0 => {
                let packet = v5_0::Connack::builder()
                    .session_present(false)
                    .reason_code(ConnectReasonCode::Success)
                    .props(self.capabilities(assigned).map_err(unbuilt)?);
                packet.build().map_err(unbuilt)?.into()
            }
            _ => {
                let packet = v3_1_1::Connack::builder()
                    .session_present(false) // there is nothing to resume: nobody subscribes
                    .return_code(ConnectReturnCode::Accepted);
                packet.build().map_err(unbuilt)?.into()
            }
        };
        self.send(packet)
    }

    fn capabilities(&self, assigned: Option<&str>) -> Result<Vec<Property>, MqttError> {
        let mut properties = vec![
            ReceiveMaximum::new(self.receive_maximum)?.into(),
            MaximumPacketSize::new(self.packet_bytes)?.into(),
            MaximumQos::new(1)?.into(),
            TopicAliasMaximum::new(TOPIC_ALIASES)?.into(),
            SessionExpiryInterval::new(0)?.into(),
            WildcardSubscriptionAvailable::new(0)?.into(),
            SubscriptionIdentifierAvailable::new(0)?.into(),
            SharedSubscriptionAvailable::new(0)?.into(),
        ];
        if let Some(id) = assigned {
            properties.push(AssignedClientIdentifier::new(id)?.into());
        }
        Ok(properties)
    }

    /// Acknowledges a publish: what it carried is on disk.
    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Result<(), Broken> {
        let packet: Packet = match self.connection.get_protocol_version() {
            Version::V5_0 => v5_0::Puback::builder()
                .packet_id(packet_id)
                .build()
                .map_err(unbuilt)?
                .into(),
            _ => v3_1_1::Puback::builder()
                .packet_id(packet_id)
                .build()
                .map_err(unbuilt)?
                .into(),
        };
        self.send(packet)
    }

    /// Says goodbye, to those whose protocol has a word for it.
    pub(super) fn goodbye(&mut self, why: Goodbye) {
        let reason = match why {
            Goodbye::TakenOver => DisconnectReasonCode::SessionTakenOver,
            Goodbye::Busy => DisconnectReasonCode::ServerBusy,
            Goodbye::ShuttingDown => DisconnectReasonCode::ServerShuttingDown,
            Goodbye::Forgotten => DisconnectReasonCode::AdministrativeAction,
        };
        self.disconnect(reason);
    }

    fn disconnect(&mut self, reason: DisconnectReasonCode) {
        if self.connection.get_protocol_version() == Version::V5_0
            && let Ok(packet) = v5_0::Disconnect::builder().reason_code(reason).build()
        {
            let events = self.connection.send(packet.into());
            self.send_only(events);
        }
    }

    fn send(&mut self, packet: Packet) -> Result<(), Broken> {
        let events = self.connection.send(packet);
        self.events(events).map(drop)
    }

    /// Keeps what the events want sent and nothing else of them.
    fn send_only(&mut self, events: Vec<Event>) {
        for event in events {
            if let Event::RequestSendPacket { packet, .. } = event {
                self.output
                    .extend_from_slice(&packet.to_continuous_buffer());
            }
        }
    }

    fn events(&mut self, events: Vec<Event>) -> Result<Option<Incoming>, Broken> {
        let mut incoming = None;
        let mut broken = None;
        for event in events {
            match event {
                Event::NotifyPacketReceived(packet) => {
                    self.heard = true;
                    match self.packet(packet) {
                        Ok(word) => incoming = word,
                        Err(error) => broken = Some(error.0),
                    }
                }
                Event::RequestSendPacket { packet, .. } => {
                    self.output
                        .extend_from_slice(&packet.to_continuous_buffer());
                }
                Event::RequestTimerReset {
                    kind: TimerKind::PingreqRecv,
                    duration_ms,
                } => {
                    self.silence = Some(Duration::from_millis(duration_ms));
                }
                Event::RequestTimerCancel(TimerKind::PingreqRecv) => self.silence = None,
                Event::RequestTimerReset { .. } | Event::RequestTimerCancel(_) => {}
                Event::NotifyPacketIdReleased(_) => {}
                // The crate reports some errors without asking to close; we close on each.
                Event::NotifyError(error) => broken = Some(format!("protocol error: {error:?}")),
                Event::RequestClose => {
                    // DISCONNECT asks for it, too; then it has been handed over as such.
                    if incoming.is_none() {
                        broken.get_or_insert("closed by the protocol".to_owned());
                    }
                }
            }
        }
        broken.map_or(Ok(incoming), |why| Err(Broken(why)))
    }

    /// Answers a packet, or hands it over.
    fn packet(&mut self, packet: Packet) -> Result<Option<Incoming>, Broken> {
        let incoming = match packet {
            Packet::V3_1_1Connect(packet) => {
                if packet.client_id().is_empty() && !packet.clean_session() {
                    let no = v3_1_1::Connack::builder()
                        .session_present(false)
                        .return_code(ConnectReturnCode::IdentifierRejected);
                    let events = self.connection.send(no.build().map_err(unbuilt)?.into());
                    self.send_only(events);
                    return Err(Broken(
                        "a persistent session without a client id".to_owned(),
                    ));
                }
                Incoming::Connect(Connect {
                    client_id: packet.client_id().to_owned(),
                    will: will(packet.will_topic(), packet.will_payload()),
                })
            }
            Packet::V5_0Connect(packet) => {
                let wants_auth = |p: &Property| matches!(p, Property::AuthenticationMethod(_));
                if packet.props().iter().any(wants_auth) {
                    let no = v5_0::Connack::builder()
                        .session_present(false)
                        .reason_code(ConnectReasonCode::BadAuthenticationMethod);
                    let events = self.connection.send(no.build().map_err(unbuilt)?.into());
                    self.send_only(events);
                    return Err(Broken(
                        "an authentication method, of which there is none".to_owned(),
                    ));
                }
                Incoming::Connect(Connect {
                    client_id: packet.client_id().to_owned(),
                    will: will(packet.will_topic(), packet.will_payload()),
                })
            }
            Packet::V3_1_1Publish(packet) => {
                self.check_qos(packet.qos())?;
                Incoming::Publish(Publish {
                    topic: packet.topic_name().to_owned(),
                    payload: bytes(packet.payload()),
                    packet_id: packet.packet_id(),
                })
            }
            Packet::V5_0Publish(packet) => {
                self.check_qos(packet.qos())?;
                Incoming::Publish(Publish {
                    topic: packet.topic_name().to_owned(),
                    payload: bytes(packet.payload()),
                    packet_id: packet.packet_id(),
                })
            }
            Packet::V3_1_1Disconnect(_) => Incoming::Disconnect { with_will: false },
            Packet::V5_0Disconnect(packet) => Incoming::Disconnect {
                with_will: packet.reason_code()
                    == Some(DisconnectReasonCode::DisconnectWithWillMessage),
            },
            Packet::V3_1_1Subscribe(packet) => {
                let refused = vec![SubackReturnCode::Failure; packet.entries().len()];
                let answer = v3_1_1::Suback::builder()
                    .packet_id(packet.packet_id())
                    .return_codes(refused);
                self.send(answer.build().map_err(unbuilt)?.into())?;
                return Ok(None);
            }
            Packet::V5_0Subscribe(packet) => {
                let refused = vec![SubackReasonCode::NotAuthorized; packet.entries().len()];
                let answer = v5_0::Suback::builder()
                    .packet_id(packet.packet_id())
                    .reason_codes(refused);
                self.send(answer.build().map_err(unbuilt)?.into())?;
                return Ok(None);
            }
            Packet::V3_1_1Unsubscribe(packet) => {
                let answer = v3_1_1::Unsuback::builder().packet_id(packet.packet_id());
                self.send(answer.build().map_err(unbuilt)?.into())?;
                return Ok(None);
            }
            Packet::V5_0Unsubscribe(packet) => {
                let none = vec![UnsubackReasonCode::NoSubscriptionExisted; packet.entries().len()];
                let answer = v5_0::Unsuback::builder()
                    .packet_id(packet.packet_id())
                    .reason_codes(none);
                self.send(answer.build().map_err(unbuilt)?.into())?;
                return Ok(None);
            }
            Packet::V3_1_1Pingreq(_) | Packet::V5_0Pingreq(_) => return Ok(None),
            other => {
                let kind = other.packet_type();
                self.disconnect(DisconnectReasonCode::ProtocolError);
                return Err(Broken(format!(
                    "a packet that no publisher sends: {kind:?}"
                )));
            }
        };
        Ok(Some(incoming))
    }

    fn check_qos(&mut self, qos: Qos) -> Result<(), Broken> {
        if qos == Qos::ExactlyOnce {
            self.disconnect(DisconnectReasonCode::QosNotSupported);
            return Err(Broken("a publish of QoS 2; 0 and 1 are taken".to_owned()));
        }
        Ok(())
    }
}

fn will(topic: Option<&str>, payload: Option<&[u8]>) -> Option<Will> {
    topic.map(|topic| Will {
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.unwrap_or_default()),
    })
}

/// The payload without a copy: it shares the packet's buffer.
fn bytes(payload: &ArcPayload) -> Bytes {
    struct Shared(ArcPayload);
    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    Bytes::from_owner(Shared(payload.clone()))
}

/// An answer of ours that the crate does not build: a bug here, but only this connection's trouble.
fn unbuilt(error: MqttError) -> Broken {
    Broken(format!("an answer could not be built: {error:?}"))
}
