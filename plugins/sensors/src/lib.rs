//! `/sensors`: temperatures and fans, by chip and sensor.
//!
//! **Measures**, for each sensor that the kernel's hwmon drivers show: the temperature with its limits, or a fan's speed. Only where no hwmon driver gives a
//! temperature, those of the thermal zones.
//! **Units**: degrees Celsius, in the kernel's steps of 0.001; fans in revolutions a minute.
//! **Cost**: two to five small files a sensor. Each may be a question over a slow bus, or to a disk, so unless told otherwise the agent asks every 10 s ([`INTERVAL_MS`]).
//! **Leaves out**: voltages, currents, powers, humidity; alarms and hysteresis; trip points of thermal zones; NVIDIA GPUs, which the `gpu` source has.
//! **When it fails**: a sensor that is faulty, cannot be read or tells nonsense is absent while the others stay. A machine without sensors, or where none
//! has ever told anything, is unavailable and says what was looked for; a driver that is loaded later is found by a later round. Sensors that told
//! something before and now are all silent are a failed round.

use std::path::PathBuf;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod names;
pub mod read;

use read::{Measured, Sensor};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The interval if the operator sets none: heat moves slowly, and reading an I²C chip costs milliseconds.
pub const INTERVAL_MS: u64 = 10_000;

/// There are no options; the struct refuses any by name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Config {}

/// The `sensors` source.
pub struct SensorsSource {
    sys: PathBuf,
    /// Whether a round ever had a value: then silence is a fault, and not what this machine is like.
    has_measured: bool,
}

impl SensorsSource {
    /// Starts the source; without sensors it starts as well, and every round looks for them.
    ///
    /// # Errors
    /// An option in `config`: there are none.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_sys(config, "/sys".into())
    }

    /// The same with another `/sys`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_sys(config: &str, sys: PathBuf) -> Result<Self, String> {
        let Config {} = serde_json::from_str(config)
            .map_err(|e| format!("sensors takes no options, remove them: {e}"))?;
        Ok(Self {
            sys,
            has_measured: false,
        })
    }
}

impl MetricSource for SensorsSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let round = read::read(&self.sys);
        if round.sensors.is_empty() {
            let reason = round.why_empty();
            return Err(if self.has_measured && round.silent > 0 {
                CollectError::Failed(reason)
            } else {
                CollectError::Unavailable(reason)
            });
        }
        self.has_measured = true;
        let mut tree = MetricTree::new();
        for sensor in &round.sensors {
            describe(sensor, &mut tree);
        }
        if round.left_out > 0 {
            tree.set(names::LEFT_OUT, round.left_out as u64);
        }
        Ok(tree)
    }
}

fn describe(sensor: &Sensor, tree: &mut MetricTree) {
    let branch = tree
        .branch(sensor.chip.as_str())
        .branch(sensor.name.as_str());
    match sensor.measured {
        Measured::Temperature {
            celsius,
            critical,
            high,
        } => {
            branch.set("temperature_celsius", celsius);
            branch.set_some("critical_celsius", critical);
            branch.set_some("high_celsius", high);
        }
        Measured::Fan { rpm } => branch.set("speed_rpm", rpm),
    }
}

export_plugin! {
    name: "sensors",
    metrics: METRICS_TOML,
    new: SensorsSource::new,
    interval_ms: INTERVAL_MS,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_refused_by_name() {
        let error = SensorsSource::new(r#"{"fans":true}"#).err().unwrap();
        assert!(
            error.contains("fans") && error.contains("no options"),
            "{error}"
        );
    }
}
