//! A connection of its own to the same broker, for what the collector itself has to say there: retained messages of QoS 1, and a few subscriptions of QoS 0 or 1.
//!
//! It begins without a session and leaves none: what was published and not acknowledged when it ends has to be said again on the next one. [`Line::publish`] never waits;
//! whoever publishes counts what was [taken](Came::Taken) and keeps below [`ROOM`].

use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, LastWill, Outgoing, Packet, QoS};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BrokerSettings, QUEUED, SHUTDOWN_PATIENCE, asked, granted, options};

/// Publishes that may wait for their acknowledgement.
pub(crate) const ROOM: u16 = 256;

/// What came.
#[derive(Debug)]
pub(crate) enum Came {
    /// All subscriptions are granted.
    Subscribed,
    Message {
        topic: String,
        payload: Bytes,
        /// The broker had kept it; it was not published just now.
        retained: bool,
    },
    /// One of our publishes was acknowledged.
    Taken,
}

/// One connection. Dropped, it is cut: the broker publishes the will.
#[derive(Debug)]
pub(crate) struct Line {
    client: AsyncClient,
    came: mpsc::Receiver<Result<Came, String>>,
    task: JoinHandle<()>,
}

impl Line {
    /// Connects and asks for the filters; the will is retained. An error says why it could not.
    pub(crate) async fn connect(
        settings: &BrokerSettings,
        will: (&str, &'static str),
        filters: Vec<String>,
    ) -> Result<Self, String> {
        let mut options = options(settings).map_err(|e| e.to_string())?;
        let (topic, payload) = will;
        options
            .set_clean_session(true)
            .set_manual_acks(false)
            .set_inflight(ROOM)
            .set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true));
        let (client, mut events) = AsyncClient::new(options, usize::from(ROOM) + 16);
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {}
            Ok(other) => return Err(format!("the broker begins with {other:?}")),
            Err(error) => return Err(error.to_string()),
        }
        client
            .try_subscribe_many(asked(&filters))
            .map_err(|e| e.to_string())?;
        let (told, came) = mpsc::channel(QUEUED);
        let task = tokio::spawn(poll(events, filters, told));
        Ok(Self { client, came, task })
    }

    /// Waits for what comes next; an error says why the connection ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Came, String> {
        let ended = || Err("the connection ended".to_owned());
        self.came.recv().await.unwrap_or_else(ended)
    }

    /// Sends a retained message; an empty one makes the broker forget the topic.
    pub(crate) fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), String> {
        let sent = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, true, payload);
        sent.map_err(|e| e.to_string())
    }

    /// Asks for no more of a filter.
    pub(crate) fn unsubscribe(&self, filter: &str) -> Result<(), String> {
        self.client
            .try_unsubscribe(filter)
            .map_err(|e| e.to_string())
    }

    /// Ends it in good order: what was published before goes out, and the broker forgets the will.
    pub(crate) async fn close(mut self) {
        if self.client.try_disconnect().is_err() {
            return;
        }
        let gone = async { while self.next().await.is_ok() {} };
        let _late = tokio::time::timeout(SHUTDOWN_PATIENCE, gone).await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hands over what comes until the connection ends, and says why it did.
async fn poll(
    mut events: EventLoop,
    filters: Vec<String>,
    told: mpsc::Sender<Result<Came, String>>,
) {
    loop {
        let came = match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Came::Message {
                topic: publish.topic,
                payload: publish.payload,
                retained: publish.retain,
            }),
            Ok(Event::Incoming(Packet::PubAck(_))) => Ok(Came::Taken),
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                granted(&filters, &ack).map(|()| Came::Subscribed)
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => Err("disconnected".to_owned()),
            Ok(_) => continue,
            Err(error) => Err(error.to_string()),
        };
        let over = came.is_err();
        if told.send(came).await.is_err() || over {
            return;
        }
    }
}
