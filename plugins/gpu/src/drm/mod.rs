//! AMD's and Intel's GPUs, as the kernel shows them in `/sys/class/drm`.
//!
//! **Promises**: a GPU that its driver put to sleep is not woken, and an idle one is left alone now and then, so that it can fall asleep
//! ([`rest`]). A file that a driver or a GPU lacks costs its own value only. A GPU that fails never hides another.
//! **Leaves to others**: which index a GPU has ([`crate::index`]).
//!
//! | file | holds |
//! |---|---|
//! | `scan.rs` | finds the GPUs, and passes over what is none |
//! | `rest.rs` | runtime power management: asleep, or to be left alone |
//! | `amd.rs`, `intel.rs` | which files of a GPU have which value |
//! | `hwmon.rs`, `attribute.rs` | sensors and single files |

use std::path::PathBuf;
use std::time::{Duration, Instant};

mod amd;
mod attribute;
mod hwmon;
mod intel;
mod rest;
mod scan;

use crate::index::PciAddress;
use attribute::Attributes;
use rest::{Power, Rest};
pub use scan::{Driver, Found};

/// How soon a GPU that is plugged in, or whose driver is loaded, is seen.
pub const SCAN_EVERY: Duration = Duration::from_secs(10);

/// What a GPU measures in one round, each where there is a file for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    /// 0 to 1; README.md says of what.
    pub utilization: Option<f64>,
    /// Share of time in which device memory was busy, 0 to 1.
    pub memory_controller_utilization: Option<f64>,
    /// Bytes.
    pub memory_total: Option<u64>,
    pub memory_used: Option<u64>,
    pub temperature_celsius: Option<f64>,
    pub power_watts: Option<f64>,
    /// Since the driver was loaded.
    pub energy_joules: Option<f64>,
    pub frequency_hertz: Option<u64>,
}

/// One GPU in one round.
#[derive(Debug)]
pub struct CardRound {
    pub address: PciAddress,
    pub name: String,
    pub reading: Reading,
}

/// What came of reading it.
#[derive(Debug, PartialEq)]
pub enum Reading {
    Values(Values),
    /// It sleeps; nothing was read.
    Suspended,
    /// It is idle and was not read, so that it can fall asleep.
    Resting,
    /// It gave nothing, and why.
    Failed(String),
}

/// The GPUs, kept between rounds.
pub struct Drm {
    sys: PathBuf,
    cards: Vec<Card>,
    /// Cards that are no GPU of ours, for the operator: `card0 (nouveau)`.
    passed_over: Vec<String>,
    scanned: Option<Instant>,
}

struct Card {
    found: Found,
    /// Looked up when the GPU is first seen awake.
    sensors: Option<Sensors>,
    rest: Rest,
    idle: bool,
}

enum Sensors {
    Amd(amd::Files),
    Intel(intel::Files),
}

impl Drm {
    /// Looks for GPUs below `sys`, which is `/sys` but in tests.
    #[must_use]
    pub fn new(sys: PathBuf) -> Self {
        let mut drm = Self {
            sys,
            cards: Vec::new(),
            passed_over: Vec::new(),
            scanned: None,
        };
        drm.scan();
        drm
    }

    /// How many display controllers of NVIDIA the PCI bus has, whatever driver they have.
    #[must_use]
    pub fn nvidia_on_bus(&self) -> u32 {
        scan::nvidia_on_bus(&self.sys)
    }

    /// What was found, in order of PCI address.
    pub fn found(&self) -> impl Iterator<Item = &Found> {
        self.cards.iter().map(|card| &card.found)
    }

    /// The addresses of [`found`](Self::found).
    pub fn addresses(&self) -> impl Iterator<Item = PciAddress> {
        self.found().map(|found| found.address)
    }

    /// Reads all GPUs, in order of PCI address.
    pub fn read(&mut self, now: Instant) -> Vec<CardRound> {
        match self.scanned {
            Some(at) if now.saturating_duration_since(at) < SCAN_EVERY => {}
            _ => {
                // The scan of `new` has no time, and counts for the first round.
                if self.scanned.is_some() {
                    self.scan();
                }
                self.scanned = Some(now);
            }
        }
        self.cards.retain(|card| card.found.card.exists());
        self.cards.iter_mut().map(|card| card.read(now)).collect()
    }

    /// What was looked for in vain, for an operator.
    #[must_use]
    pub fn nothing_found(&self) -> String {
        let dir = self.sys.join("class/drm");
        let mut text = format!(
            "No AMD or Intel GPU either: {} has no card of the drivers amdgpu, radeon, i915 or xe",
            dir.display()
        );
        if !self.passed_over.is_empty() {
            text += &format!("; it has {}", self.passed_over.join(", "));
        }
        text
    }

    /// What is known of a GPU that is still there is kept.
    fn scan(&mut self) {
        let scan = scan::scan(&self.sys);
        let mut before = std::mem::take(&mut self.cards);
        self.passed_over = scan.passed_over;
        for found in scan.found {
            let card = match before.iter().position(|card| card.found == found) {
                Some(known) => before.swap_remove(known),
                None => Card {
                    found,
                    sensors: None,
                    rest: Rest::default(),
                    idle: true,
                },
            };
            self.cards.push(card);
        }
    }
}

impl Card {
    fn read(&mut self, now: Instant) -> CardRound {
        CardRound {
            address: self.found.address,
            name: self.found.name.clone(),
            reading: self.reading(now),
        }
    }

    fn reading(&mut self, now: Instant) -> Reading {
        let device = self.found.card.join("device");
        let power = Power::read(&device);
        if power.suspended {
            self.rest = Rest::default();
            self.sensors = None; // its counters may stand still or begin anew
            return Reading::Suspended;
        }
        if self.rest.now(now, power.autosuspend, self.idle) {
            return Reading::Resting;
        }
        let found = &self.found;
        let sensors = self.sensors.get_or_insert_with(|| match found.driver {
            Driver::Amdgpu | Driver::Radeon => Sensors::Amd(amd::Files::of(found)),
            Driver::I915 | Driver::Xe => Sensors::Intel(intel::Files::of(found)),
        });
        let mut attributes = Attributes::default();
        let values = match sensors {
            Sensors::Amd(files) => files.read(&mut attributes),
            Sensors::Intel(files) => files.read(&mut attributes, now, power.suspended_ms),
        };
        self.idle = values.utilization.is_none_or(rest::is_idle);
        match attributes.error() {
            Some(reason) if values == Values::default() => {
                // It may have fallen asleep in between: amdgpu then refuses (EPERM) instead of waking it.
                if Power::read(&device).suspended {
                    return Reading::Suspended;
                }
                self.sensors = None; // a driver that was loaded anew has other files
                Reading::Failed(format!("{}: {reason}", found.address))
            }
            _ => Reading::Values(values),
        }
    }
}
