//! The connection: says what the [desk](super::desk) has to say, hears Home Assistant's birth message and what the broker holds of us. Connects again and again.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devmon_core::wire::TimestampMs;
use tokio::sync::watch;

use super::desk::Desk;
use super::entity::{OFFLINE, ONLINE};
use super::progress::Progress;
use super::settings::Settings;
use crate::intake::subscribe::Pauses;
use crate::intake::subscribe::line::{Came, Line, ROOM};
use crate::store::engine::Store;

/// How often it is looked who came, went or fell silent; states have their own interval.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Messages said together; the next once these are acknowledged, and not before this pause. Some 500 messages a second: Home Assistant sets up an entity in a millisecond or two.
const BATCH: usize = 50;
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// Home Assistant says that it has come, and asks for some random time before all devices answer at once.
const FIRST_AFTER_BIRTH: Duration = Duration::from_millis(500);
const SPREAD_AFTER_BIRTH_MS: u64 = 2_000;
/// So long the broker may take to give back what we say of ourselves; what it held comes before that.
const ECHO_PATIENCE: Duration = Duration::from_secs(10);
/// The problem until the first connection stands.
const NOT_YET: &str = "no connection to the broker yet";
/// So long the last word may take.
const FAREWELL: Duration = Duration::from_secs(2);

const _: () = assert!(BATCH < ROOM as usize);

/// Says it until `shutdown` becomes true.
pub async fn run(
    settings: Settings,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut desk = Some(Desk::new(settings.clone(), progress.clone()));
    let mut pauses = Pauses::new();
    progress.set_problem(Some(NOT_YET.to_owned()));
    loop {
        let begin = Instant::now();
        let talk = Talk {
            settings: &settings,
            store: &store,
            progress: &progress,
            desk: &mut desk,
            shutdown: shutdown.clone(),
        };
        let error = talk.run().await;
        if *shutdown.borrow() {
            return;
        }
        let pause = pauses.next(begin.elapsed());
        tracing::warn!(
            error,
            pause_s = pause.as_secs(),
            "nothing is said to Home Assistant; trying again"
        );
        progress.set_problem(Some(error));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// One connection.
struct Talk<'a> {
    settings: &'a Settings,
    store: &'a Arc<dyn Store>,
    progress: &'a Progress,
    /// Always there but while it is lent to a thread that may block.
    desk: &'a mut Option<Desk>,
    shutdown: watch::Receiver<bool>,
}

impl Talk<'_> {
    /// From beginning to end; returns why it ended.
    async fn run(mut self) -> String {
        // Before anything is heard, so that nothing that is wanted looks like a stranger's.
        if let Err(error) = self
            .with_desk(|desk, store| {
                desk.look(store, TimestampMs::now(), Instant::now());
                desk.begin(Instant::now());
            })
            .await
        {
            return error;
        }
        let Some(desk) = self.desk.as_ref() else {
            return LOST.to_owned();
        };
        let (collector, own) = (desk.topics().collector(), desk.topics().own());
        let mut filters = vec![self.settings.status_topic.clone()];
        filters.extend(own.clone());
        let connecting = Line::connect(&self.settings.broker, (&collector, OFFLINE), filters);
        let connected = tokio::select! {
            connected = connecting => connected,
            _ = self.shutdown.wait_for(|stop| *stop) => return STOPS.to_owned(),
        };
        let mut line = match connected {
            Ok(line) => line,
            Err(error) => return error,
        };
        match self.talk(&mut line, &collector, &own).await {
            Err(error) => error,
            Ok(()) => {
                self.farewell(line, &collector).await;
                STOPS.to_owned()
            }
        }
    }

    /// Until the shutdown, or an error.
    async fn talk(
        &mut self,
        line: &mut Line,
        collector: &str,
        own: &[String; 2],
    ) -> Result<(), String> {
        let mut shutdown = self.shutdown.clone();
        let begin = Instant::now();
        let mut waits_for = 0_u64;
        // What was published on `collector` came back, or is waited for no longer: a late one still takes the problem away.
        let (mut echoed, mut speaks) = (false, false);
        let mut own = Some(own);
        let mut birth: Option<Instant> = None;
        let mut look = begin;
        let look_every = LOOK_EVERY.min(self.settings.interval);
        loop {
            let now = Instant::now();
            if !speaks && now - begin >= ECHO_PATIENCE {
                speaks = true;
                let problem = format!(
                    "the broker does not give back what is published on {collector}; check that this client may write and read there"
                );
                tracing::warn!(problem, "Home Assistant may see nothing");
                self.progress.set_problem(Some(problem));
            }
            if birth.is_some_and(|at| at <= now) {
                birth = None;
                self.desk_mut()?.again();
            }
            if look <= now {
                look = now + look_every;
                self.with_desk(|desk, store| desk.look(store, TimestampMs::now(), Instant::now()))
                    .await?;
                if own.is_some() && self.desk_mut()?.knows_the_broker(now) {
                    // From here on it would only give back what we say.
                    for filter in own.take().into_iter().flatten() {
                        line.unsubscribe(filter)?;
                    }
                }
            }
            if speaks && waits_for == 0 {
                for message in self.desk_mut()?.take(BATCH) {
                    line.publish(&message.topic, message.payload)?;
                    waits_for += 1;
                }
            }
            let mut until = look;
            if !speaks || self.desk_mut()?.waits() {
                until = until.min(now + BATCH_EVERY);
            }
            until = birth.map_or(until, |at| until.min(at));
            // All that comes meanwhile is heard; what has to be said waits for its time.
            loop {
                let came = tokio::select! {
                    _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                    came = line.next() => came?,
                    () = tokio::time::sleep_until(until.into()) => break,
                };
                match came {
                    Came::Subscribed => line.publish(collector, ONLINE.into())?,
                    Came::Taken => {
                        self.progress.taken();
                        waits_for = waits_for.saturating_sub(1);
                    }
                    Came::Message {
                        topic,
                        payload,
                        retained,
                    } => {
                        if topic == self.settings.status_topic {
                            if payload.as_ref() == ONLINE.as_bytes() && !retained {
                                self.progress.born();
                                birth.get_or_insert_with(after_birth);
                                break;
                            }
                        } else if retained {
                            self.desk_mut()?.held(topic, &payload);
                        } else if topic == collector && !echoed {
                            (echoed, speaks) = (true, true);
                            self.progress.set_problem(None);
                            tracing::info!(
                                broker = self.settings.broker.host,
                                "announcing to Home Assistant"
                            );
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Says that the collector goes: the will is for those that are cut off.
    async fn farewell(&self, mut line: Line, collector: &str) {
        if line.publish(collector, OFFLINE.into()).is_ok() {
            // Its acknowledgement is the last of those that are under way, or nearly so.
            let taken = async {
                while matches!(
                    line.next().await,
                    Ok(Came::Message { .. } | Came::Subscribed)
                ) {}
            };
            let _late = tokio::time::timeout(FAREWELL, taken).await;
        }
        line.close().await;
    }

    fn desk_mut(&mut self) -> Result<&mut Desk, String> {
        self.desk.as_mut().ok_or_else(|| LOST.to_owned())
    }

    /// Lends the desk to a thread that may block.
    async fn with_desk(
        &mut self,
        work: impl FnOnce(&mut Desk, &dyn Store) + Send + 'static,
    ) -> Result<(), String> {
        let mut desk = self.desk.take().ok_or_else(|| LOST.to_owned())?;
        let store = self.store.clone();
        let lent = tokio::task::spawn_blocking(move || {
            work(&mut desk, &*store);
            desk
        });
        *self.desk = Some(lent.await.map_err(|e| e.to_string())?);
        Ok(())
    }
}

const STOPS: &str = "the collector stops";
/// A look at the store panicked.
const LOST: &str =
    "what was said to Home Assistant is not known any more; this is a defect, and a restart helps";

fn after_birth() -> Instant {
    let spread = RandomState::new().hash_one(()) % SPREAD_AFTER_BIRTH_MS;
    Instant::now() + FIRST_AFTER_BIRTH + Duration::from_millis(spread)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;

    use super::super::settings::tests::settings_at;
    use super::*;
    use crate::intake::subscribe::fake::{Broker, wait_for};
    use crate::store::{Engine, Options};

    #[test]
    fn a_refused_subscription_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Engine::open(dir.path(), Options::default()).unwrap());
        let (broker, progress) = (Broker::new(), Arc::new(Progress::default()));
        let settings = settings_at(broker.port(), "enabled = true\nstatus_topic = 'ha/status'");
        let settings = settings.unwrap().unwrap();
        let (_stop, stops) = watch::channel(false);
        let runtime = Runtime::new().unwrap();
        runtime.spawn(run(settings, store, progress.clone(), stops));
        let mut client = broker.accept(false);
        let asked = client.subscribes();
        assert_eq!(progress.figures().problem.unwrap(), NOT_YET);
        client.answer(asked, [0x80, 1, 1]);
        wait_for("it is said", || {
            progress
                .figures()
                .problem
                .is_some_and(|said| said != NOT_YET)
        });
        assert_eq!(
            progress.figures().problem.unwrap(),
            "the broker refuses the subscription of ha/status; give this client the right to read there"
        );
    }
}
