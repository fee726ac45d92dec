//! Parquet from outside: `export --format parquet` and `import` of it, in a program built with the feature.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn on(command: &str, data: &Path, args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_devmon-collector"));
    let program = program.env_clear().args([command, "--data-dir"]).arg(data);
    program.args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn good(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

const CSV: &str = "device,path,ts,type,value
a,/cpu/use,1763899200000,float,-0.0
a,/cpu/use,1763899201000,float,5e-324
a,/cpu/use,1763899202000,float,0.1
a,/n,1763899200000,integer,-9223372036854775808
a,/n,1763899201000,integer,9007199254740993
a,/on,1763899200000,boolean,true
a,/state,1763899200000,text,\"two
lines, größer\"
a,/state,1763899201000,text,
b,/n,1763899200000,integer,1
b,/n,1763899201000,float,1.0
";

#[test]
fn parquet_is_imported_as_it_was_exported() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let file = |name: &str| at(name).to_str().unwrap().to_owned();
    std::fs::write(at("in.csv"), CSV).unwrap();
    good(on("import", &at("one"), &[&file("in.csv")]));
    good(on(
        "export",
        &at("one"),
        &["--format", "parquet", "--output", &file("out.parquet")],
    ));
    let streamed = on("export", &at("one"), &["--format", "parquet"]).stdout;
    assert!(
        streamed == std::fs::read(at("out.parquet")).unwrap(),
        "to a pipe as to a file"
    );
    assert_eq!(
        good(on("import", &at("two"), &[&file("out.parquet")])),
        "10 samples\n"
    );
    assert_eq!(good(on("export", &at("two"), &[])), CSV);

    let cut = &streamed[..streamed.len() - 9];
    std::fs::write(at("cut.parquet"), cut).unwrap();
    let refused = on("import", &at("three"), &[&file("cut.parquet")]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("cut.parquet: "), "{said}");
}
