//! Names for chips and sensors that are the same after a restart, and no two alike.
//!
//! The kernel numbers its `hwmonN` in the order in which drivers load, which differs from one start to the next; so `N` is part of no name. A chip is called
//! what its driver calls it. Where several chips have one name, each carries its bus address too: `nvme-0000:01:00.0`.

use std::collections::{HashMap, HashSet};

use devmon_core::path::check_name;

/// The leaf beside the chips; no chip gets this name.
pub const LEFT_OUT: &str = "sensors_left_out";

/// What a chip can be told by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// What the driver calls it.
    pub name: Option<String>,
    /// Where it sits: `0000:00:18.3`, `coretemp.0`, `0-0018`.
    pub address: Option<String>,
}

/// A name for each chip, in the order given; `None` for one that has neither name nor address, or an illegal one.
///
/// Chips of one name and one address (two drivers' chips on one device) are told apart by `-2`, `-3`, … in the order given.
#[must_use]
pub fn of_chips(chips: &[Identity]) -> Vec<Option<String>> {
    let mut bearers: HashMap<&str, usize> = HashMap::new();
    for name in chips.iter().filter_map(|chip| chip.name.as_deref()) {
        *bearers.entry(name).or_default() += 1;
    }
    let is_sole = |chip: &Identity| {
        let name = chip.name.as_deref();
        name.is_some_and(|name| bearers.get(name) == Some(&1))
    };
    let mut taken = HashSet::from([LEFT_OUT.to_owned()]);
    let mut names = vec![None; chips.len()];
    // Sole names first: no made-up name may take one away.
    for sole in [true, false] {
        for (chip, slot) in chips.iter().zip(&mut names) {
            if is_sole(chip) == sole {
                let wanted = match (&chip.name, &chip.address) {
                    (Some(name), Some(address)) if !sole => Some(format!("{name}-{address}")),
                    (name, address) => name.clone().or_else(|| address.clone()),
                };
                *slot = wanted.and_then(|wanted| claim(&wanted, &mut taken));
            }
        }
    }
    names
}

fn claim(wanted: &str, taken: &mut HashSet<String>) -> Option<String> {
    let mut name = wanted.to_owned();
    let mut n = 1;
    while !taken.insert(name.clone()) {
        n += 1;
        name = format!("{wanted}-{n}");
    }
    check_name(&name).is_ok().then_some(name)
}

/// A name for each sensor of one chip, given what the kernel calls it (`temp1`) and its label: the label if no other sensor of the chip has it as label or
/// as the kernel's name.
#[must_use]
pub fn of_sensors(sensors: &[(String, Option<String>)]) -> Vec<String> {
    let mut bearers: HashMap<&str, usize> = HashMap::new();
    for (kernel, label) in sensors {
        *bearers.entry(kernel).or_default() += 1;
        if let Some(label) = label.as_ref().filter(|label| *label != kernel) {
            *bearers.entry(label).or_default() += 1;
        }
    }
    let own = |(kernel, label): &(String, Option<String>)| {
        let label = label
            .as_ref()
            .filter(|label| check_name(label).is_ok() && bearers.get(label.as_str()) == Some(&1));
        label.unwrap_or(kernel).clone()
    };
    sensors.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(name: &str, address: &str) -> Identity {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Identity {
            name: some(name),
            address: some(address),
        }
    }

    fn names(chips: &[Identity]) -> Vec<String> {
        let named = of_chips(chips).into_iter();
        named.map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn only_chips_that_share_a_name_carry_their_address() {
        let chips = [chip("nvme", "a"), chip("k10temp", "b"), chip("nvme", "c")];
        assert_eq!(names(&chips), ["nvme-a", "k10temp", "nvme-c"]);
    }

    #[test]
    fn the_order_of_loading_changes_no_name() {
        let mut chips = [chip("nvme", "a"), chip("k10temp", "b"), chip("nvme", "c")];
        chips.reverse();
        assert_eq!(names(&chips), ["nvme-c", "k10temp", "nvme-a"]);
    }

    #[test]
    fn no_two_chips_have_one_name() {
        let chips = [
            chip("x", "a"),
            chip("x", "a"),
            chip("x-a", "b"), // what the first would be called
            chip("y", ""),
            chip("y", ""),
            chip("", "z"),
            chip("", ""),
            chip(LEFT_OUT, ""),
        ];
        assert_eq!(
            names(&chips),
            [
                "x-a-2",
                "x-a-3",
                "x-a",
                "y",
                "y-2",
                "z",
                "",
                "sensors_left_out-2"
            ]
        );
        assert_eq!(names(&[chip(&"x".repeat(129), "")]), [""]);
    }

    #[test]
    fn a_label_counts_only_if_it_names_one_sensor() {
        let sensors = [
            ("temp1", "Core 0"),
            ("temp2", "Core 1"),
            ("temp3", "Core 1"),
            ("temp4", ""),
            ("temp5", "temp4"),
            ("temp6", "temp6"),
        ];
        let sensors = sensors.map(|(kernel, label)| {
            let label = (!label.is_empty()).then(|| label.to_owned());
            (kernel.to_owned(), label)
        });
        assert_eq!(
            of_sensors(&sensors),
            ["Core 0", "temp2", "temp3", "temp4", "temp5", "temp6"]
        );
    }
}
