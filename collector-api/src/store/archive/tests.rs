//! Day files there and back, and damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use devmon_core::Value;
use proptest::prelude::*;

use super::*;
use crate::store::block::{Table, TableColumn};
use crate::store::column::Cells;
use crate::store::column::tests::value;
use crate::store::engine::StoreError;
use crate::store::rollup::{Rollup, Tier};

const DAY: u32 = 20_780;

/// By series and time.
type Model = BTreeMap<(u32, i64), Value>;

/// A table, its times in ms from the start of the day.
fn table(model: &Model) -> Table {
    let times: BTreeSet<i64> = model.keys().map(|(_, t)| *t).collect();
    let times: Vec<i64> = times.into_iter().collect();
    let mut columns: Vec<TableColumn> = Vec::new();
    for ((series, t), value) in model {
        let row = times.binary_search(t).unwrap() as u32;
        match columns.last_mut().filter(|column| column.series == *series) {
            Some(column) => {
                column.rows.push(row);
                column.cells.push(value);
            }
            None => columns.push(TableColumn {
                series: *series,
                rows: vec![row],
                cells: Cells::of(value),
            }),
        }
    }
    let ts = times.iter().map(|t| day_start(DAY) + t).collect();
    Table { ts, columns }
}

fn model_of(table: &Table) -> Model {
    let mut model = Model::new();
    for column in &table.columns {
        for (i, &row) in column.rows.iter().enumerate() {
            let t = table.ts[row as usize] - day_start(DAY);
            model.insert((column.series, t), column.cells.get(i));
        }
    }
    model
}

fn same(a: &Model, b: &Model) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((k, v), (l, w))| k == l && v.same_bits(w))
}

fn read(
    file: &DayFile,
    stream: u32,
    wanted: &dyn Fn(u32) -> bool,
    from: i64,
    to: i64,
) -> Result<Model, StoreError> {
    let mut model = Model::new();
    let start = day_start(DAY);
    file.read(
        stream,
        wanted,
        start + from,
        start + to,
        &mut |series, ts, cells| {
            assert_eq!(ts.len(), cells.len());
            for (i, t) in ts.iter().enumerate() {
                assert!(model.insert((series, t - start), cells.get(i)).is_none());
            }
        },
    )?;
    Ok(model)
}

fn write_raw(path: &Path, streams: &BTreeMap<u32, Model>) -> Figures {
    let mut writer = Writer::create(path, DAY, Holds::Raw).unwrap();
    for (stream, model) in streams {
        writer.raw(*stream, &table(model)).unwrap();
    }
    writer.finish().unwrap()
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("2026-11-23.1.dma");
    (dir, path)
}

/// Few series with gaps and changing types.
fn ragged() -> impl Strategy<Value = Model> {
    let row = (
        0i64..DAY_MS,
        prop::collection::vec((0u32..9, value()), 0..6),
    );
    prop::collection::vec(row, 1..60).prop_map(|rows| {
        let mut model = Model::new();
        for (t, cells) in rows {
            for (series, value) in cells {
                model.insert((series * 1000, t), value);
            }
        }
        model
    })
}

/// Long columns of one rhythm.
fn regular() -> impl Strategy<Value = Model> {
    let column = (0u8..6, 1i64..999, 0usize..50);
    (
        1i64..5000,
        1usize..9000,
        prop::collection::vec(column, 1..4),
    )
        .prop_map(|(step, rows, columns)| {
            let mut model = Model::new();
            for (series, (kind, seed, absent)) in (0u32..).zip(columns) {
                for i in 0..rows as i64 {
                    let noise = i.wrapping_mul(seed * 7919) % 101;
                    let value = match kind {
                        0 => Value::Float(noise as f64 / 100.0),
                        1 => Value::Integer(seed + i * 4096),
                        2 => Value::Float(noise as f64 / seed as f64),
                        3 => Value::Boolean(noise > 50),
                        4 => Value::Text(format!("state {}", noise / 40)),
                        _ if noise > 90 => Value::Integer(noise),
                        _ => Value::Float(noise as f64 / 10.0),
                    };
                    if absent == 0 || noise as usize >= absent {
                        model.insert((series, i * step), value);
                    }
                }
            }
            model
        })
}

fn tables() -> impl Strategy<Value = Model> {
    prop_oneof![4 => ragged(), 1 => regular()]
}

fn rollups(file: &DayFile, tier: Tier, stream: u32) -> Vec<(u32, Vec<Rollup>)> {
    let mut found = Vec::new();
    file.rollups(
        tier,
        stream,
        &|_| true,
        i64::MIN,
        i64::MAX,
        &mut |series, rollups| {
            found.push((series, rollups.collect()));
        },
    )
    .unwrap();
    found
}

fn made(model: &Model, tier: Tier) -> Vec<(u32, Vec<Rollup>)> {
    let table = table(model);
    let of = |column: &TableColumn| {
        let ts: Vec<i64> = column.rows.iter().map(|&r| table.ts[r as usize]).collect();
        fold::rollups(&ts, &column.cells, tier.bucket_ms().unwrap())
    };
    table
        .columns
        .iter()
        .map(|column| (column.series, of(column)))
        .collect()
}

/// Every bit, NaN too: as text floats show all but the payload of NaN.
fn same_rollups(a: &[(u32, Vec<Rollup>)], b: &[(u32, Vec<Rollup>)]) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn raw_samples_come_back(
        streams in prop::collection::btree_map(0u32..999, tables(), 0..4),
        (from, length) in (0..DAY_MS, 0..DAY_MS),
        odd in any::<bool>(),
    ) {
        let (_dir, path) = new_path();
        let figures = write_raw(&path, &streams);
        let file = DayFile::open(&path).unwrap();
        prop_assert_eq!(file.figures(), figures);
        prop_assert_eq!(figures.bytes, std::fs::metadata(&path).unwrap().len());
        prop_assert_eq!(figures.samples, streams.values().map(|m| m.len() as u64).sum::<u64>());
        prop_assert_eq!((file.day(), file.holds()), (DAY, Holds::Raw));
        prop_assert_eq!(file.streams().unwrap(), streams.keys().copied().collect::<Vec<_>>());
        file.verify().unwrap();
        let wanted = |series: u32| !odd || series % 2 == 1;
        for (stream, model) in &streams {
            prop_assert!(same(&read(&file, *stream, &|_| true, 0, DAY_MS).unwrap(), model));
            prop_assert!(same(&model_of(&file.table(*stream).unwrap().unwrap()), model));
            let part: Model = model
                .iter()
                .filter(|((series, t), _)| wanted(*series) && (from..from + length).contains(t))
                .map(|(key, value)| (*key, value.clone()))
                .collect();
            prop_assert!(same(&read(&file, *stream, &wanted, from, from + length).unwrap(), &part));
            for tier in [Tier::Minute, Tier::Hour] {
                prop_assert!(same_rollups(&rollups(&file, tier, *stream), &made(model, tier)));
            }
        }
        prop_assert!(file.table(1000).unwrap().is_none());
        prop_assert!(read(&file, 1000, &|_| true, 0, DAY_MS).unwrap().is_empty());
    }

    #[test]
    fn rollups_come_back(streams in prop::collection::btree_map(0u32..999, tables(), 0..4), minutes in any::<bool>()) {
        let (_dir, path) = new_path();
        let holds = if minutes { Holds::Minute } else { Holds::Hour };
        let mut writer = Writer::create(&path, DAY, holds).unwrap();
        let minute_of = |model| if minutes { made(model, Tier::Minute) } else { Vec::new() };
        for (stream, model) in &streams {
            writer.rollups(*stream, &minute_of(model), &made(model, Tier::Hour)).unwrap();
        }
        let figures = writer.finish().unwrap();
        prop_assert_eq!(figures.samples, streams.values().map(|m| m.len() as u64).sum::<u64>());
        let file = DayFile::open(&path).unwrap();
        file.verify().unwrap();
        for (stream, model) in &streams {
            prop_assert!(same_rollups(&rollups(&file, Tier::Minute, *stream), &minute_of(model)));
            prop_assert!(same_rollups(&rollups(&file, Tier::Hour, *stream), &made(model, Tier::Hour)));
            prop_assert!(file.table(*stream).unwrap().is_none());
        }
    }
}
