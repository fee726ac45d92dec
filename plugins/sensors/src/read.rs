//! Reads `/sys/class/hwmon/hwmon*/`, and `/sys/class/thermal/thermal_zone*/` if that gave no temperature.
//!
//! | file of a chip | holds |
//! |---|---|
//! | `name`, `device` | the driver's name; a link to the device it sits on |
//! | `tempN_input`, `tempN_crit`, `tempN_max` | thousandths of a degree Celsius |
//! | `fanN_input` | revolutions a minute |
//! | `tempN_label`, `fanN_label` | what the board's maker wrote beside it |
//! | `tempN_fault`, `fanN_fault` | 1: nothing is connected, or it is broken |
//!
//! (Documentation/hwmon/sysfs-interface.rst). A thermal zone has `type` and `temp`, in thousandths too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use devmon_core::path::check_name;

use crate::names::{self, Identity};

/// Most sensors of a round, in the order of chip names. A server with two sockets, 128 cores and 24 disks has some 200.
pub const MAX_SENSORS: usize = 512;
/// What is outside is no temperature: drivers say -273.15, -128 or 65261.85 °C where nothing is connected or nothing is set.
const CREDIBLE_MILLIDEGREES: RangeInclusive<i64> = -100_000..=250_000;
/// A file of sysfs is a page at most.
const MAX_FILE_BYTES: u64 = 4096;
/// hwmon → the controller's class device (`nvme0`) → its bus device: two links, and some to spare.
const MAX_DEVICE_LINKS: usize = 4;

/// One round.
#[derive(Debug, Default)]
pub struct Round {
    pub sensors: Vec<Sensor>,
    /// Sensors beyond [`MAX_SENSORS`].
    pub left_out: usize,
    /// Sensors that gave no value.
    pub silent: usize,
    /// Why the first of them did not.
    first_silent: Option<String>,
    /// What was found in each place.
    looked: Vec<String>,
}

/// One sensor with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    pub chip: String,
    pub name: String,
    pub measured: Measured,
}

/// What a sensor told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    Temperature {
        celsius: f64,
        critical: Option<f64>,
        high: Option<f64>,
    },
    Fan {
        rpm: u32,
    },
}

/// A sensor that is there.
struct Found {
    chip: String,
    name: String,
    what: What,
}

/// What to read.
enum What {
    /// The files' path up to `_`: `…/hwmon3/temp1`.
    Temperature(PathBuf),
    Fan(PathBuf),
    /// The file `temp`.
    Zone(PathBuf),
}

/// Looks for sensors and reads them.
#[must_use]
pub fn read(sys: &Path) -> Round {
    let mut round = Round::default();
    let chips = round.list(&sys.join("class/hwmon"), "hwmon", "temp*_input");
    round.measure(sensors_of_chips(&chips));
    let is_temperature = |sensor: &Sensor| matches!(sensor.measured, Measured::Temperature { .. });
    if !round.sensors.iter().any(is_temperature) {
        let zones = round.list(&sys.join("class/thermal"), "thermal_zone", "temp");
        round.measure(sensors_of_zones(&zones));
    }
    round
}

impl Round {
    /// For a round without a value: what was looked for, what was found instead, what to do.
    #[must_use]
    pub fn why_empty(&self) -> String {
        match &self.first_silent {
            Some(why) => format!(
                "none of the {} temperature and fan sensors gives a value; the first: {why}. It is not connected or its driver is at fault; if that is how this machine is, switch this source off",
                self.silent
            ),
            None => format!(
                "no temperature or fan sensor: {}. Virtual machines and containers have none; elsewhere load the driver of the machine's sensors \
                 (coretemp, k10temp, nvme, drivetemp; sensors-detect knows more), or switch this source off",
                self.looked.join(", ")
            ),
        }
    }

    /// Directories called `prefix` and a number, by that number.
    fn list(&mut self, dir: &Path, prefix: &str, file: &str) -> Vec<PathBuf> {
        let found = numbered(dir, |name| number(name.strip_prefix(prefix)?));
        let shown = dir.display();
        self.looked.push(match &found {
            Err(e) if e.kind() == ErrorKind::NotFound => format!("{shown} is missing"),
            Err(e) => format!("{shown} cannot be listed ({e})"),
            Ok(_) => format!("{shown} has no {prefix}*/{file}"),
        });
        let found = found.unwrap_or_default().into_iter();
        found.map(|(_, name)| dir.join(name)).collect()
    }

    fn measure(&mut self, found: Vec<Found>) {
        for sensor in found {
            if self.sensors.len() + self.silent >= MAX_SENSORS {
                self.left_out += 1;
                continue;
            }
            match measure(&sensor.what) {
                Ok(measured) => self.sensors.push(Sensor {
                    chip: sensor.chip,
                    name: sensor.name,
                    measured,
                }),
                Err(why) => {
                    self.silent += 1;
                    self.first_silent.get_or_insert(why);
                }
            }
        }
    }
}

/// In the order of chip names, so that the same ones are left out after a restart.
fn sensors_of_chips(dirs: &[PathBuf]) -> Vec<Found> {
    let identities: Vec<Identity> = dirs.iter().map(|dir| identity(dir)).collect();
    let mut chips: Vec<(String, &PathBuf)> = names::of_chips(&identities)
        .into_iter()
        .zip(dirs)
        .filter_map(|(name, dir)| Some((name?, dir)))
        .collect();
    chips.sort();
    chips
        .into_iter()
        .flat_map(|(chip, dir)| sensors_of_chip(&chip, dir))
        .collect()
}

fn identity(dir: &Path) -> Identity {
    let mut address = None;
    let mut link = dir.join("device");
    // The device of an NVMe disk is `nvme0`, a number again; the device of that is on the bus.
    for _ in 0..MAX_DEVICE_LINKS {
        let Ok(target) = fs::read_link(&link) else {
            break;
        };
        address = target
            .file_name()
            .and_then(|n| Some(n.to_str()?.to_owned()));
        link.push("device");
    }
    Identity {
        name: text(&dir.join("name")).ok().filter(|name| !name.is_empty()),
        address,
    }
}

fn sensors_of_chip(chip: &str, dir: &Path) -> Vec<Found> {
    let inputs = numbered(dir, |file| {
        let kernel = file.strip_suffix("_input")?;
        let (is_fan, digits) = match kernel.strip_prefix("temp") {
            Some(digits) => (false, digits),
            None => (true, kernel.strip_prefix("fan")?),
        };
        Some((is_fan, number(digits)?))
    });
    let label = |kernel: &str| {
        let label = text(&dir.join(format!("{kernel}_label"))).ok();
        label.filter(|label| !label.is_empty())
    };
    let found = inputs.unwrap_or_default(); // a chip that has just gone
    let sensors: Vec<(String, Option<String>)> = found
        .iter()
        .filter_map(|(_, file)| file.strip_suffix("_input"))
        .map(|kernel| (kernel.to_owned(), label(kernel)))
        .collect();
    let named = names::of_sensors(&sensors).into_iter().zip(&sensors);
    found
        .iter()
        .zip(named)
        .map(|(((is_fan, _), _), (name, (kernel, _)))| Found {
            chip: chip.to_owned(),
            name,
            what: if *is_fan {
                What::Fan(dir.join(kernel))
            } else {
                What::Temperature(dir.join(kernel))
            },
        })
        .collect()
}

/// Named as the kernel names them where it shows zones as hwmon (drivers/thermal/thermal_hwmon.c), so that a series stays one when a kernel starts to:
/// the chip is the type with `_` for `-`, its zones are `temp1`, `temp2`, … in the order of zones.
fn sensors_of_zones(dirs: &[PathBuf]) -> Vec<Found> {
    let mut chips: BTreeMap<String, Vec<&PathBuf>> = BTreeMap::new();
    for dir in dirs {
        let Ok(zone_type) = text(&dir.join("type")) else {
            continue;
        };
        let chip = zone_type.replace('-', "_");
        if check_name(&chip).is_ok() && chip != names::LEFT_OUT {
            chips.entry(chip).or_default().push(dir);
        }
    }
    let mut found = Vec::new();
    for (chip, zones) in chips {
        found.extend(zones.iter().zip(1_u32..).map(|(dir, n)| Found {
            chip: chip.clone(),
            name: format!("temp{n}"),
            what: What::Zone(dir.join("temp")),
        }));
    }
    found
}

/// The value, or why there is none.
fn measure(what: &What) -> Result<Measured, String> {
    match what {
        What::Temperature(sensor) => {
            without_fault(sensor)?;
            Ok(Measured::Temperature {
                celsius: celsius(&beside(sensor, "input"))?,
                critical: celsius(&beside(sensor, "crit")).ok(),
                high: celsius(&beside(sensor, "max")).ok(),
            })
        }
        What::Zone(file) => Ok(Measured::Temperature {
            celsius: celsius(file)?,
            critical: None,
            high: None,
        }),
        What::Fan(sensor) => {
            without_fault(sensor)?;
            let file = beside(sensor, "input");
            let rpm = parsed(&file, |text| text.parse().ok())?;
            Ok(Measured::Fan { rpm })
        }
    }
}

/// `…/temp1` and `crit` give `…/temp1_crit`.
fn beside(sensor: &Path, attribute: &str) -> PathBuf {
    let mut path = sensor.as_os_str().to_owned();
    path.push("_");
    path.push(attribute);
    path.into()
}

fn without_fault(sensor: &Path) -> Result<(), String> {
    let file = beside(sensor, "fault");
    match text(&file) {
        Ok(fault) if fault == "1" => Err(format!("{} is 1", file.display())),
        _ => Ok(()), // most drivers have no such file
    }
}

fn celsius(file: &Path) -> Result<f64, String> {
    parsed(file, parse_celsius)
}

fn parsed<T>(file: &Path, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let shown = file.display();
    let text = text(file).map_err(|e| format!("cannot read {shown}: {e}"))?;
    parse(&text).ok_or_else(|| format!("{shown} has {:?} in it", shortened(&text)))
}

/// Of millidegrees; `None` for what is no number or no temperature.
fn parse_celsius(text: &str) -> Option<f64> {
    let millidegrees: i64 = text.parse().ok()?;
    let is_credible = CREDIBLE_MILLIDEGREES.contains(&millidegrees);
    is_credible.then_some(millidegrees as f64 / 1000.0)
}

fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

/// The whole file, trimmed.
fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// The entries that have a key, in its order.
fn numbered<K: Ord>(dir: &Path, key: impl Fn(&str) -> Option<K>) -> io::Result<Vec<(K, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if let Some(key) = key(&name) {
            found.push((key, name));
        }
    }
    found.sort();
    Ok(found)
}

/// Digits only: `parse` would take a sign.
fn number(digits: &str) -> Option<u32> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_temperature_is_none() {
        assert_eq!(parse_celsius("45125"), Some(45.125));
        assert_eq!(parse_celsius("-100000"), Some(-100.0));
        assert_eq!(parse_celsius("250000"), Some(250.0));
        for wrong in [
            "-100001",
            "250001",
            "65261850",
            "-273150",
            "",
            "45.1",
            "N/A",
            "99999999999999999999",
        ] {
            assert_eq!(parse_celsius(wrong), None, "{wrong}");
        }
    }
}
