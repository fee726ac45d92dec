//! Which interfaces are measured. Pure.
//!
//! By name alone: an interface's kind stands in no file that could be read without asking the kernel for each, and the names are given by
//! the programs that make them. Bonds, bridges of an operator's own, VLANs, tunnels and VPNs are measured: they carry what nothing else shows.

use glob::Pattern;

/// Globs of interfaces that are left out unless `include` names them: the loopback, ends of containers and virtual machines and their
/// bridges, and devices that the kernel makes by itself and that carry nothing.
pub const VIRTUAL: [&str; 28] = [
    "lo",
    "br-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]", // docker's, not br-lan
    "cali*",
    "cbr[0-9]*",
    "cilium_*",
    "cni*",
    "docker*",
    "dummy*",
    "erspan[0-9]*",
    "flannel*",
    "gre[0-9]*",
    "gretap[0-9]*",
    "ifb*",
    "ip6_vti[0-9]*",
    "ip6gre[0-9]*",
    "ip6tnl0",
    "ip_vti[0-9]*",
    "kube-*",
    "lxc*",
    "lxdbr*",
    "nodelocaldns",
    "podman*",
    "sit0",
    "tunl0",
    "veth*",
    "virbr*",
    "vmnet*",
    "vnet*",
];

/// The options, compiled.
#[derive(Debug)]
pub struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Filter {
    /// Compiles the globs; with no `include`, [`VIRTUAL`] joins `exclude`.
    ///
    /// # Errors
    /// A text that names the option and the glob.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let mut filter = Self {
            include: globs("include", include)?,
            exclude: globs("exclude", exclude)?,
        };
        if filter.include.is_empty() {
            filter.exclude.extend(globs("exclude", &VIRTUAL)?);
        }
        Ok(filter)
    }

    /// True if the interface is to be measured.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        let any = |globs: &[Pattern]| globs.iter().any(|glob| glob.matches(name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

fn globs(option: &str, globs: &[impl AsRef<str>]) -> Result<Vec<Pattern>, String> {
    let compile = |glob: &str| Pattern::new(glob).map_err(|e| format!("`{option}`: {glob}: {e}"));
    globs.iter().map(|glob| compile(glob.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let own = |globs: &[&str]| globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        Filter::new(&own(include), &own(exclude)).unwrap()
    }

    #[test]
    fn what_containers_put_up_is_left_out_and_what_an_operator_made_is_not() {
        let by_default = filter(&[], &[]);
        for name in [
            "lo",
            "veth12ab34c",
            "docker0",
            "br-0123456789ab",
            "virbr0",
            "vnet3",
            "cni0",
            "flannel.1",
            "cali0a1b2c",
            "ifb0",
            "sit0",
        ] {
            assert!(!by_default.takes(name), "{name}");
        }
        for name in [
            "eth0", "eno1", "enp3s0f1", "wlan0", "wwan0", "bond0", "br0", "br-lan", "eth0.100",
            "wg0", "tun0", "ppp0", "lora0",
        ] {
            assert!(by_default.takes(name), "{name}");
        }
    }

    #[test]
    fn include_names_all_that_is_measured_and_exclude_wins() {
        let only = filter(&["lo", "eth*"], &["eth1"]);
        assert!(only.takes("lo") && only.takes("eth0"));
        assert!(!only.takes("eth1") && !only.takes("wlan0"));
        assert!(!filter(&[], &["wg*"]).takes("wg0"));
    }

    #[test]
    fn a_wrong_glob_is_refused_by_option() {
        let error = Filter::new(&["eth[".into()], &[]).unwrap_err();
        assert!(
            error.contains("include") && error.contains("eth["),
            "{error}"
        );
    }
}
