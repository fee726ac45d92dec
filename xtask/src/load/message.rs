//! What a simulated device sends: a message of the agent's form, made without any formatting, and the value that each of its leaves must have.
//!
//! Everything in a message is a function of ([`Message`], [`Shape`]): whoever keeps a ledger of what was acknowledged keeps ranges of ticks, no values.
//! Numbers of devices, boots, messages and times have fixed widths and are patched into a template; the other leaves come from a pool of
//! [`PHASES`] ready-made trees from a fixed seed, which each device walks through from a place of its own. They are what machines report: percents with two
//! decimals, counters, multiples of 4 KiB, half degrees, slowly filling disks.

/// Ready-made trees. A device's values repeat after so many ticks (but for `ticks`): 2.8 hours at 10 s.
const PHASES: u32 = 1024;
/// Numbers of messages and ticks start here, so that they have ten digits for ever.
const NUMBER_BASE: u64 = 1_000_000_000;
const SEED: u64 = 0x00de_ad00_beef;

/// xorshift64*: repeatable, and no part of what is tested.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 ≤ x < `n`; `n` above 0.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next_u64() >> 8) % n
    }
}

/// Names one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    pub device: u32,
    /// Which start of the device's agent: below 10^8.
    pub boot: u32,
    pub seq: u32,
    /// Of its first frame.
    pub tick: u32,
    /// One for each tick from the first on; at least 1.
    pub frames: u16,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Percent,
    Counter,
    Bytes,
    Temperature,
    Disk,
}

const KINDS: [(Kind, &str, &str); 5] = [
    (Kind::Percent, "cpu", "core_"),
    (Kind::Counter, "net", "received_bytes_total_"),
    (Kind::Bytes, "memory", "resident_bytes_"),
    (Kind::Temperature, "temperature", "sensor_"),
    (Kind::Disk, "disk", "used_bytes_"),
];

impl Kind {
    fn first(self, random: &mut Random) -> i64 {
        (match self {
            Self::Percent => random.below(10_000),
            Self::Counter => random.below(1 << 40),
            Self::Bytes => random.below(1 << 22) * 4096,
            Self::Temperature => 60 + random.below(80),
            Self::Disk => random.below(1 << 38),
        }) as i64
    }

    fn step(self, value: i64, random: &mut Random) -> i64 {
        let mut walk = |most: i64| random.below(2 * most as u64 + 1) as i64 - most;
        match self {
            Self::Percent => (value + walk(150)).clamp(0, 10_000),
            Self::Counter => value + 100_000 + walk(50_000),
            Self::Bytes => (value + walk(32) * 4096).max(0),
            Self::Temperature => (value + walk(1)).clamp(40, 190),
            Self::Disk if walk(16) == 0 => value + 123_456,
            Self::Disk => value,
        }
    }

    fn write(self, value: i64, out: &mut String) {
        use std::fmt::Write as _;
        // Into a String: no failure is possible.
        let _ = match self {
            Self::Percent => write!(out, "{}.{:02}", value / 100, value % 100),
            Self::Temperature => write!(out, "{}.{}", value / 2, value % 2 * 5),
            Self::Counter | Self::Bytes | Self::Disk => write!(out, "{value}"),
        };
    }
}

/// How the fleet's messages look.
#[derive(Debug)]
pub struct Shape {
    /// Devices are called this, `-` and six digits.
    name: String,
    metrics: u32,
    origin_ms: i64,
    step_ms: i64,
    /// `metrics` less one, in the order of [`Shape::path`], for each phase.
    values: Vec<i64>,
    /// The values of a phase as JSON, from the comma behind `ticks` on.
    bodies: Vec<Vec<u8>>,
}

impl Shape {
    /// `metrics` leaves a frame (1 to 10 000), tick 0 at `origin_ms`, one tick each `step_ms`.
    #[must_use]
    pub fn new(name: &str, metrics: u32, origin_ms: i64, step_ms: i64) -> Self {
        let mut random = Random::new(SEED);
        let metrics = metrics.clamp(1, 10_000);
        let kinds: Vec<Kind> = (1..metrics).map(|m| kind(m, metrics).0).collect();
        let mut now: Vec<i64> = kinds.iter().map(|k| k.first(&mut random)).collect();
        let (mut values, mut bodies) = (Vec::new(), Vec::new());
        for _ in 0..PHASES {
            bodies.push(body(&kinds, &now).into_bytes());
            values.extend_from_slice(&now);
            for (kind, value) in kinds.iter().zip(&mut now) {
                *value = kind.step(*value, &mut random);
            }
        }
        Self {
            name: name.to_owned(),
            metrics,
            origin_ms,
            step_ms: step_ms.max(1),
            values,
            bodies,
        }
    }

    #[must_use]
    pub fn metrics(&self) -> u32 {
        self.metrics
    }

    #[must_use]
    pub fn device(&self, device: u32) -> String {
        format!("{}-{device:06}", self.name)
    }

    /// Milliseconds since 1970. Devices do not tick at the same moment.
    #[must_use]
    pub fn ts(&self, device: u32, tick: u32) -> i64 {
        let offset = i64::from(device) * 7919 % self.step_ms;
        self.origin_ms + i64::from(tick) * self.step_ms + offset
    }

    /// The tick that [`ts`](Self::ts) gives this time to.
    #[must_use]
    pub fn tick(&self, device: u32, ts: i64) -> Option<u32> {
        let tick = u32::try_from((ts - self.origin_ms).div_euclid(self.step_ms)).ok()?;
        (self.ts(device, tick) == ts).then_some(tick)
    }

    /// The path of a leaf.
    #[must_use]
    pub fn path(&self, metric: u32) -> String {
        if metric == 0 {
            return "/load/ticks".into();
        }
        let (_, group, name, number) = named(metric, self.metrics);
        format!("/load/{group}/{name}{number:02}")
    }

    /// The leaf's value, as it was written in JSON.
    #[must_use]
    pub fn value(&self, device: u32, metric: u32, tick: u32) -> String {
        if metric == 0 {
            return (NUMBER_BASE + u64::from(tick)).to_string();
        }
        let row = phase(device, tick) * (self.metrics as usize - 1);
        let mut out = String::new();
        kind(metric, self.metrics)
            .0
            .write(self.values[row + metric as usize - 1], &mut out);
        out
    }

    /// Appends the PUBLISH (QoS 1) that carries this message.
    pub fn publish(&self, message: &Message, packet_id: u16, again: bool, out: &mut Vec<u8>) {
        const TOPIC: (&[u8], &[u8]) = (b"devmon/v1/0/", b"/metrics");
        const HEAD: [&[u8]; 4] = [
            br#"{"v":1,"device":""#,
            br#"","boot":"B"#,
            br#"","seq":"#,
            br#","frames":["#,
        ];
        const FRAME: [&[u8]; 3] = [
            br#"{"ts":"#,
            br#","source":"load","metrics":{"ticks":"#,
            b"}}",
        ];
        let device_len = self.name.len() + 7;
        let topic_len = TOPIC.0.len() + device_len + TOPIC.1.len();
        let ticks = message.tick..message.tick + u32::from(message.frames.max(1));
        let head_len = HEAD.iter().map(|h| h.len()).sum::<usize>() + device_len + 8 + 10;
        let frame_len = FRAME.iter().map(|f| f.len()).sum::<usize>() + 13 + 10 + 1;
        let bodies = ticks
            .clone()
            .map(|t| &*self.bodies[phase(message.device, t)]);
        let payload_len = head_len + bodies.map(|b| b.len() + frame_len).sum::<usize>() - 1 + 2;

        out.push(if again { 0x3a } else { 0x32 });
        put_length(out, 2 + topic_len + 2 + payload_len);
        out.extend_from_slice(&(topic_len as u16).to_be_bytes());
        out.extend_from_slice(TOPIC.0);
        self.put_device(message.device, out);
        out.extend_from_slice(TOPIC.1);
        out.extend_from_slice(&packet_id.to_be_bytes());
        let begin = out.len();
        out.extend_from_slice(HEAD[0]);
        self.put_device(message.device, out);
        out.extend_from_slice(HEAD[1]);
        put_digits::<8>(u64::from(message.boot), out);
        out.extend_from_slice(HEAD[2]);
        put_digits::<10>(NUMBER_BASE + u64::from(message.seq), out);
        out.extend_from_slice(HEAD[3]);
        for tick in ticks.clone() {
            if tick != ticks.start {
                out.push(b',');
            }
            out.extend_from_slice(FRAME[0]);
            put_digits::<13>(self.ts(message.device, tick).unsigned_abs(), out);
            out.extend_from_slice(FRAME[1]);
            put_digits::<10>(NUMBER_BASE + u64::from(tick), out);
            out.extend_from_slice(&self.bodies[phase(message.device, tick)]);
            out.extend_from_slice(FRAME[2]);
        }
        out.extend_from_slice(b"]}");
        debug_assert_eq!(out.len() - begin, payload_len);
    }

    fn put_device(&self, device: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.push(b'-');
        put_digits::<6>(u64::from(device), out);
    }
}

/// The metrics behind `ticks` are dealt out to the kinds in equal runs: what kind a metric is, and its number there.
fn kind(metric: u32, metrics: u32) -> (Kind, u32) {
    let (kind, _, _, number) = named(metric, metrics);
    (kind, number)
}

fn named(metric: u32, metrics: u32) -> (Kind, &'static str, &'static str, u32) {
    let run = (metrics - 1).div_ceil(KINDS.len() as u32).max(1);
    let (kind, group, name) = KINDS[((metric - 1) / run) as usize % KINDS.len()];
    (kind, group, name, (metric - 1) % run)
}

fn body(kinds: &[Kind], values: &[i64]) -> String {
    let metrics = kinds.len() as u32 + 1;
    let mut out = String::new();
    let mut open = "";
    for (metric, value) in (1..metrics).zip(values) {
        let (kind, group, name, number) = named(metric, metrics);
        if group != open {
            let close = if open.is_empty() { "" } else { "}" };
            out.push_str(&format!("{close},\"{group}\":{{"));
            open = group;
        } else {
            out.push(',');
        }
        out.push_str(&format!("\"{name}{number:02}\":"));
        kind.write(*value, &mut out);
    }
    if !open.is_empty() {
        out.push('}');
    }
    out
}

fn phase(device: u32, tick: u32) -> usize {
    (device.wrapping_mul(613).wrapping_add(tick) % PHASES) as usize
}

fn put_digits<const N: usize>(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

/// MQTT's remaining length.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return;
        }
    }
}

/// Appends a CONNECT of MQTT 3.1.1: clean session, no keep-alive.
pub(super) fn connect(client_id: &str, out: &mut Vec<u8>) {
    out.push(0x10);
    put_length(out, 12 + client_id.len());
    out.extend_from_slice(&[0, 4, b'M', b'Q', b'T', b'T', 4, 0b10, 0, 0]);
    out.extend_from_slice(&(client_id.len() as u16).to_be_bytes());
    out.extend_from_slice(client_id.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    #[test]
    fn a_message_says_what_its_values_promise() {
        for (metrics, frames) in [(1, 1), (2, 3), (7, 2), (50, 1), (333, 5)] {
            let shape = Shape::new("d", metrics, 1_790_000_000_000, 10_000);
            let message = Message {
                device: 123,
                boot: 7,
                seq: 9,
                tick: 5000,
                frames,
            };
            let mut out = Vec::new();
            shape.publish(&message, 0x0102, false, &mut out);
            let payload_at = out.iter().position(|b| *b == b'{').unwrap();
            assert_eq!(
                out[payload_at - 2..payload_at],
                [1, 2],
                "the packet id ends the header"
            );
            let json: Json = serde_json::from_slice(&out[payload_at..]).unwrap();
            assert_eq!(json["device"], shape.device(123));
            assert_eq!(json["seq"], NUMBER_BASE + 9);
            assert_eq!(
                json["frames"].as_array().unwrap().len(),
                usize::from(frames)
            );
            let mut paths = std::collections::BTreeSet::new();
            for (i, frame) in json["frames"].as_array().unwrap().iter().enumerate() {
                let tick = 5000 + i as u32;
                let ts = frame["ts"].as_i64().unwrap();
                assert_eq!(ts, shape.ts(123, tick));
                assert_eq!(shape.tick(123, ts), Some(tick));
                assert_eq!(shape.tick(123, ts + 1), None);
                for metric in 0..metrics {
                    let path = shape.path(metric);
                    let at = path.strip_prefix("/load").unwrap();
                    let expected: Json =
                        serde_json::from_str(&shape.value(123, metric, tick)).unwrap();
                    assert_eq!(frame["metrics"].pointer(at), Some(&expected), "{path}");
                    paths.insert(path);
                }
            }
            assert_eq!(paths.len(), metrics as usize);
        }
    }
}
