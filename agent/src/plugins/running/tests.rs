//! Promises of the list of sources: what becomes of files and names.

use super::*;
use crate::config::Flags;
use crate::plugins::exec::ExecFile;
use crate::plugins::host::HostedPlugin;
use crate::plugins::load::Abi;

fn found(copy: Option<&str>, verdict: Result<(), Refusal>) -> Change {
    let copy = copy.map(PathBuf::from);
    let verdict = verdict.map(|()| Loaded {
        name: "well".into(),
        version: None,
        preferred_interval: None,
        kind: Kind::Exec(ExecFile {
            path: "/nowhere/well.sh".into(),
            copy: copy.clone(),
            limits: super::super::host::Limits::default(),
        }),
        copy,
    });
    Change::Found(Box::new(Found {
        path: "/nowhere/well.sh".into(),
        verdict,
        companion: Vec::new(),
    }))
}

fn refusal() -> Result<(), Refusal> {
    Err(Refusal::Untrusted("everyone may write to it".into()))
}

fn settings() -> Settings {
    let flags = Flags {
        device: Some("d".parse().unwrap()),
        ..Flags::default()
    };
    Settings::resolve(&flags, |_| None).unwrap()
}

#[test]
fn what_is_refused_runs_on_from_its_copy_and_ends_without_one() {
    let settings = settings();
    for copy in [Some("/private/well-1.sh"), None] {
        let (mut sources, _reports) = Sources::start(Vec::new(), &settings, |i| i);
        assert_eq!(sources.apply(found(copy, Ok(())), &settings).new.len(), 1);
        let moves = sources.apply(found(copy, refusal()), &settings);
        assert_eq!(moves.gone.len(), usize::from(copy.is_none()));
        assert_eq!(sources.copies().len(), usize::from(copy.is_some()));
        let (about, _) = sources.about();
        let state = if copy.is_some() {
            SourceState::Ok
        } else {
            SourceState::Failing
        };
        assert_eq!(about[0].state, state);
        let reason = about[0].reason.as_deref().unwrap();
        assert!(reason.contains("everyone may write to it"), "{reason}");

        // Closed to others again, with the same content: the source that runs is not touched.
        let moves = sources.apply(found(copy, Ok(())), &settings);
        assert_eq!(moves.new.len(), usize::from(copy.is_none()));
        assert_eq!(sources.about().0[0].reason, None);
    }
}

fn file(file: &str, kind: Kind) -> Found {
    Found {
        path: format!("/nowhere/{file}").into(),
        verdict: Ok(Loaded {
            name: "cpu".into(),
            version: None,
            preferred_interval: None,
            kind,
            copy: Some(format!("/private/{file}").into()),
        }),
        companion: Vec::new(),
    }
}

fn one_of(which: usize) -> Found {
    let hosted = |file: &str| HostedPlugin {
        path: format!("/private/{file}").into(),
        file: file.into(),
        limits: super::super::host::Limits::default(),
    };
    let exec = |file: &str| ExecFile {
        path: format!("/nowhere/{file}").into(),
        copy: None,
        limits: super::super::host::Limits::default(),
    };
    let rust = Abi::Rust { major: 1, minor: 1 };
    match which {
        0 => {
            let ours = "libdevmon_plugin_cpu.so";
            file(ours, Kind::Process(hosted(ours), rust))
        }
        1 => file("liba.so", Kind::Process(hosted("liba.so"), rust)),
        2 => file("libcpu.so", Kind::Process(hosted("libcpu.so"), Abi::C(1))),
        3 => file("cpu", Kind::Exec(exec("cpu"))),
        _ => file("cpu.sh", Kind::Exec(exec("cpu.sh"))),
    }
}

#[test]
fn who_has_a_name_does_not_depend_on_who_came_first() {
    let settings = settings();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 1, 4, 0, 2]] {
        for best in 0..5 {
            let some: Vec<usize> = order.into_iter().filter(|i| *i >= best).collect();
            let wins = one_of(best).file();
            let state = |sources: &Sources| {
                let all = sources.about().0;
                assert_eq!(all.len(), some.len(), "all are shown");
                let mut ok = all.iter().filter(|s| s.state == SourceState::Ok);
                assert_eq!(ok.next().unwrap().file.as_deref(), Some(wins.as_str()));
                let by = format!("already taken by {wins}");
                let refused = all.iter().filter_map(|s| s.reason.as_deref());
                assert!(refused.clone().count() + 1 == some.len());
                assert!(ok.next().is_none());
                let last = refused.filter(|r| r.contains(&by)).count();
                assert!(some.len() == 1 || last > 0);
            };
            // One after the other, in a running agent; then all at once, when it starts.
            let (mut sources, _reports) = Sources::start(Vec::new(), &settings, |i| i);
            for i in &some {
                let again = sources.apply(Change::Found(Box::new(one_of(*i))), &settings);
                assert!(!again.again.contains(&one_of(*i).file()));
            }
            state(&sources);
            let all = some.iter().map(|i| one_of(*i)).collect();
            let (sources, _reports) = Sources::start(all, &settings, |i| i);
            state(&sources);
            assert_eq!(sources.next, 1, "none was started in vain");
        }
    }
}

#[test]
fn what_is_switched_off_is_no_matter_whatever_its_file_is_like() {
    let mut settings = settings();
    let off = crate::config::SourceSettings {
        enabled: false,
        ..Default::default()
    };
    settings.sources.insert("well".into(), off);
    for verdict in [Ok(()), refusal()] {
        let (mut sources, _reports) = Sources::start(Vec::new(), &settings, |i| i);
        sources.apply(found(None, verdict), &settings);
        let about = &sources.about().0[0];
        assert_eq!(
            (about.name.as_str(), about.state),
            ("well", SourceState::Stopped)
        );
        let reason = about.reason.as_deref();
        assert_eq!(reason, Some("switched off in the configuration"));
        assert_eq!(unknown(&settings, &sources.known()), [""; 0]);
    }
}

#[test]
fn settings_of_a_source_whose_file_was_refused_are_no_mistake() {
    let mut settings = settings();
    for name in ["well", "wall"] {
        settings.sources.insert(name.into(), Default::default());
    }
    let (mut sources, _reports) = Sources::start(Vec::new(), &settings, |i| i);
    sources.apply(found(None, refusal()), &settings);
    let said = unknown(&settings, &sources.known());
    assert!(
        said.len() == 1 && said[0].contains("did you mean \"well\"?"),
        "{said:?}"
    );
}

#[test]
fn a_file_without_a_source_can_be_tried_again_by_its_name() {
    let settings = settings();
    let (mut sources, _reports) = Sources::start(Vec::new(), &settings, |i| i);
    sources.apply(found(None, refusal()), &settings);
    assert_eq!(sources.readmit("well.sh"), Ok(Some("well.sh".into())));
    let nobody = sources.readmit("nobody").unwrap_err();
    assert!(nobody.contains("there are: well.sh"), "{nobody}");
}
