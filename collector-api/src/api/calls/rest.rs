//! The calls below `/api/v1`: the contract that `docs/rest-api.md` tells at length.

use devmon_core::descriptor::Kind as MetricKind;
use devmon_core::wire::{Reason, labels};

use super::super::endpoints::{self, Handler};
use super::super::params::{LIST_LIMIT, MAX_DEVICES, MAX_PATHS, POINTS, ROWS_LIMIT};
use super::super::problem::Kind;
use super::super::{events, reply, series};
use super::{
    Access, Answer, Body, CURSOR, DEVICE, DEVICES, DURATION, Form, GET, Header, OK, Operation,
    PATH, PREFIX, Param, Route, SchemaOf, Shape, TIME, Verb,
};
use crate::events::event::Kind as EventKind;
use crate::query::aggregate::Aggregate;
use crate::query::devices::{self, Status};
use crate::query::metrics;

const LIMIT: Param = Param::new(
    "limit",
    Shape::Whole(1, LIST_LIMIT.1 as u64, Some(LIST_LIMIT.0 as u64)),
    "Most items of a page.",
);
const NEXT: Param = Param::new(
    "cursor",
    CURSOR,
    "Where the page starts: next_cursor of the page before, with all parameters but limit and follow as they were. Opaque; good as long as the data is there, over restarts of the same release too.",
);
const DEVICE_ID: Param =
    Param::segment("device", DEVICE, "The device's id.").such_as("edge_device_01");
const IDS: Param = Param::new(
    "device",
    DEVICES,
    "Which devices: ids, or patterns of them with * for any characters. Default: all.",
)
.up_to(MAX_DEVICES)
.such_as("edge_*");
const PART_OF_ID: Param =
    Param::new("q", Shape::Text, "Only ids that contain this, in any case.").such_as("edge");
const STATUS: Param = Param::new(
    "status",
    Shape::Words(|| Status::ALL.map(Status::as_str).to_vec()),
    "Only devices of these.",
);
const WITH_LABEL: Param = Param::new(
    "label",
    LABEL,
    "Only devices that have this label: name:value, or a name for any value; several: all of them.",
)
.up_to(labels::MAX_LABELS)
.such_as("site");
const BELOW: Param = Param::new(
    "prefix",
    PREFIX,
    "A path: it and all below it. /disk takes /disk/used, not /diskette.",
)
.such_as("/cpu");

const FROM: Param = Param::new(
    "from",
    TIME,
    "The begin: RFC 3339, unix seconds (up to 11 digits), unix milliseconds (from 12 digits on), now, or before now (-6h). Default: an hour before to.",
)
.such_as("-6h");
const TO: Param = Param::new(
    "to",
    TIME,
    "The end, which is not part of the range; forms as of from. Default: now.",
)
.such_as("now");
const STEP: Param = Param::new(
    "step",
    DURATION,
    "Length of a bucket: 1 ms to 3650d; a plain number is milliseconds.",
)
.such_as("60s");
const AT_MOST: Param = Param::new(
    "points",
    Shape::Whole(*POINTS.start(), *POINTS.end(), None),
    "Instead of step: at most so many buckets, of a round length.",
);
const AGG: Param = Param::new(
    "agg",
    Shape::Words(|| Aggregate::ALL.map(Aggregate::as_str).to_vec()),
    "With step or points: what is made of the samples of a bucket; each is a column. Default: avg. rate is the increase of a counter per second.",
)
.once_each()
.such_as("avg");
const ON_EVERY_DEVICE: Param = Param::new(
    "path",
    PATH,
    "Which metrics: a path, in which a segment * stands for any one name.",
)
.needed()
.up_to(MAX_PATHS)
.once_each()
.such_as("/cpu/utilization");

const ORDER: &str = "What they are sorted by, the largest first with a - before it; of equals, the name decides. Only the order by name loses none and repeats none when a field changes from page to page.";
/// Fields in the order of the JSON form, a header row; of series a column t and one for each path, or avg(path) for each of its aggregates.
const CSV: Form = ("text/csv", None);

const fn json(schema: SchemaOf) -> Form {
    ("application/json", Some(schema))
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        path: "/api/v1/devices",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::devices),
            id: "listDevices",
            summary: "The devices.",
            about: "online: connected, or sending, and its data is fresh. stale: not known to be gone, but no sample has arrived for three intervals of its fastest source that is ok \
                    (at least 15 s), or, of one that does not say how often it sends, for three times the gap that is usual between its messages. offline: it said goodbye, or its last will arrived. last_seen is the arrival of its last message; problems counts sources that are failing or quarantined.",
            params: &[
                LIMIT,
                NEXT,
                IDS,
                PART_OF_ID,
                STATUS,
                WITH_LABEL,
                Param::new("sort", Shape::Sort(|| devices::SortBy::ALL.map(devices::SortBy::as_str).to_vec()), ORDER),
                FOLLOW,
            ],
            answers: &[Answer {
                about: "A page of devices.",
                forms: &[json(|g| g.subschema_for::<reply::List<reply::Device<'static>>>()), CSV],
                headers: &[Header::ETag, Header::EventId, Header::Link],
                example: r#"{"items":[{"id":"edge_device_01","status":"online","first_seen":1795450000000,"last_seen":1795450060000,"sources":4,"metrics":57,"problems":1,"labels":{"site":"berlin"}}],"next_cursor":null}"#,
                ..OK
            }],
            example: "?status=online&limit=10",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/devices/{device}",
        access: Access::Token,
        calls: &[
            Operation {
                handler: Handler::Store(endpoints::device),
                id: "getDevice",
                summary: "A device in full: what it is, and its sources.",
                about: "agent and host are null for a publisher that sends no about message. reason is text for an operator.",
                params: &[DEVICE_ID],
                answers: &[Answer {
                    about: "The device.",
                    forms: &[json(|g| g.subschema_for::<reply::DeviceInFull<'static>>())],
                    headers: &[Header::ETag],
                    example: r#"{"id":"edge_device_01","status":"online","first_seen":1795450000000,"last_seen":1795450060000,"sources_count":4,"metrics":57,"problems":1,"labels":{"site":"berlin"},"agent_labels":{},"operator_labels":{"site":"berlin"},"agent":{"version":"0.1.0"},"host":{"hostname":"edge-01","os":"Debian GNU/Linux 12 (bookworm)","kernel":"6.1.0","arch":"x86_64","cpus":2,"boot_ts":1795400000000},"sources":[{"name":"cpu","state":"ok","reason":null,"interval_ms":1000,"version":"0.1.0","last_ts":1795450060000}]}"#,
                    ..OK
                }],
                problems: &[Kind::InvalidParameter, Kind::NotFound],
                example: "edge_device_01",
                ..GET
            },
            Operation {
                verb: Verb::Patch,
                handler: Handler::Store(endpoints::patch),
                id: "changeDevice",
                summary: "Gives a device labels, or takes some away.",
                about: "A merge patch (RFC 7396) of what the operator says; labels that it does not name stay. A name begins with a letter and has 1 to 63 of a-z, 0-9 and _; a value has at most 256 bytes; \
                        each side gives at most 32. The operator's come before the agent's. Only with a configured token.",
                params: &[DEVICE_ID],
                body: Some(Body {
                    media: &["application/merge-patch+json", "application/json"],
                    schema: |g| g.subschema_for::<endpoints::DevicePatch>(),
                    example: r#"{"labels":{"site":"berlin","old":null}}"#,
                }),
                answers: &[Answer {
                    about: "The device as it is now.",
                    forms: &[json(|g| g.subschema_for::<reply::DeviceInFull<'static>>())],
                    ..OK
                }],
                problems: &[Kind::InvalidParameter, Kind::NotFound, Kind::Forbidden],
                example: "edge_device_01",
            },
            Operation {
                verb: Verb::Delete,
                handler: Handler::Store(endpoints::forget),
                id: "forgetDevice",
                summary: "Forgets a device and all that it sent.",
                about: "All samples, its status and what it said about itself, in every tier, at once and for good. If it sends again, it is a new device. Only with a configured token.",
                params: &[DEVICE_ID],
                answers: &[Answer { status: 204, about: "It is forgotten.", ..OK }],
                problems: &[Kind::InvalidParameter, Kind::NotFound, Kind::Forbidden],
                example: "edge_device_01",
                ..GET
            },
        ],
    },
    Route {
        path: "/api/v1/devices/{device}/metrics",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::metrics),
            id: "listMetrics",
            summary: "The metrics of a device.",
            about: "unit, kind and help come from the source's descriptors and are null without one; labels maps the placeholders of the descriptor's path to the segments found. \
                    type is that of the newest value.",
            params: &[
                DEVICE_ID,
                BELOW,
                Param::new("q", Shape::Text, "Only paths that contain this, in any case."),
                Param::new(
                    "kind",
                    Shape::Word(|| endpoints::KINDS.map(MetricKind::as_str).to_vec()),
                    "Only metrics of this kind.",
                ),
                Param::new("unit", Shape::Text, "Only metrics of this unit.").such_as("By"),
                Param::new("sort", Shape::Sort(|| metrics::SortBy::ALL.map(metrics::SortBy::as_str).to_vec()), ORDER),
                LIMIT,
                NEXT,
            ],
            answers: &[Answer {
                about: "A page of metrics.",
                forms: &[json(|g| g.subschema_for::<reply::List<reply::Metric<'static>>>()), CSV],
                headers: &[Header::ETag, Header::Link],
                example: r#"{"items":[{"path":"/disk/~1home/used_bytes","unit":"By","kind":"gauge","help":"Space in use.","labels":{"mount":"/home"},"type":"integer","first_ts":1795450000000,"last_ts":1795450060000}],"next_cursor":null}"#,
                ..OK
            }],
            problems: &[Kind::InvalidParameter, Kind::NotFound],
            example: "edge_device_01?prefix=/disk",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/devices/{device}/latest",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::latest),
            id: "getLatest",
            summary: "The newest values of a device.",
            about: "",
            params: &[
                DEVICE_ID,
                BELOW,
                Param::new(
                    "format",
                    Shape::Word(|| vec!["flat", "tree"]),
                    "flat (default): one entry a value, with its time; tree: the values alone, by name.",
                ),
                FOLLOW,
            ],
            answers: &[Answer {
                about: "The values: flat, or as a tree.",
                forms: &[json(|g| {
                    let flat = g.subschema_for::<reply::LatestFlat<'static>>();
                    let tree = g.subschema_for::<reply::LatestTree<'static>>();
                    schemars::json_schema!({"oneOf": [flat, tree]})
                }), CSV],
                headers: &[Header::ETag, Header::EventId],
                example: r#"{"device":"edge_device_01","items":[{"path":"/cpu/utilization","value":0.125,"ts":1795450060000,"unit":"1","kind":"gauge"}]}"#,
                ..OK
            }],
            problems: &[Kind::InvalidParameter, Kind::NotFound],
            example: "edge_device_01?prefix=/cpu/utilization",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/devices/{device}/series",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Large(series::of_device),
            id: "getSeries",
            summary: "Metrics of a device over time, as columns.",
            about: "Without step and points every stored sample, exactly, on the union of the paths' timestamps; null is a gap. With a step, buckets start at its multiples since the epoch. \
                    tier says what the values were made of: samples (raw), rollups of a minute (1m) or of an hour (1h). Integers are exact beyond 2^53, too.",
            params: &[
                DEVICE_ID,
                Param::new("path", PATH, "Which metrics; a segment * stands for any one name. All that fit are 50 at most.").needed().up_to(MAX_PATHS).once_each().such_as("/cpu/utilization"),
                FROM,
                TO,
                STEP,
                AT_MOST,
                AGG,
                Param::new(
                    "limit",
                    Shape::Whole(1, ROWS_LIMIT.1 as u64, Some(ROWS_LIMIT.0 as u64)),
                    "Most rows of a page.",
                ),
                NEXT,
                FOLLOW,
            ],
            answers: &[Answer {
                about: "A page of rows: times t, and a column v for each path and aggregate.",
                forms: &[json(|g| g.subschema_for::<reply::Series<'static>>()), CSV],
                headers: &[Header::ETag, Header::EventId, Header::Link],
                example: r#"{"device":"edge_device_01","from":1795450000000,"to":1795453600000,"step_ms":null,"tier":"raw","t":[1795450000000,1795450001000],"series":[{"path":"/cpu/utilization","unit":"1","kind":"gauge","agg":null,"v":[0.125,null]}],"next_cursor":null}"#,
                ..OK
            }],
            problems: &[Kind::InvalidParameter, Kind::NotFound, Kind::TooManyPoints],
            example: "edge_device_01?path=/cpu/utilization&from=-6h&step=60s&agg=min,avg,max",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/latest",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::fleet_latest),
            id: "getFleetLatest",
            summary: "The newest values of the same metrics over all devices, sorted by device and path.",
            about: "status is that of the device.",
            params: &[
                ON_EVERY_DEVICE,
                IDS,
                PART_OF_ID,
                STATUS,
                WITH_LABEL,
                LIMIT,
                NEXT,
                FOLLOW,
            ],
            answers: &[Answer {
                about: "A page of values.",
                forms: &[json(|g| g.subschema_for::<reply::List<reply::FleetItem<'static>>>()), CSV],
                headers: &[Header::ETag, Header::EventId, Header::Link],
                example: r#"{"items":[{"device":"edge_device_01","status":"online","path":"/cpu/utilization","value":0.125,"ts":1795450060000,"unit":"1","kind":"gauge"}],"next_cursor":null}"#,
                ..OK
            }],
            example: "?path=/cpu/utilization&path=/disk/*/utilization",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/series",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Large(series::of_fleet),
            id: "getFleetSeries",
            summary: "The same metrics of many devices over time, as columns that share their times.",
            about: "step or points is needed: devices share no times but those of buckets. Sorted by device, path and aggregate. A page has the whole range, and next_cursor leads to more series; it ends \
                    early where it would have more than 1000000 points, or need more than 20000000 samples. With points, no bucket is shorter than the interval of the slowest source, of all these \
                    devices, that may have such metrics. All else is as with the series of one device.",
            params: &[
                ON_EVERY_DEVICE,
                IDS,
                PART_OF_ID,
                STATUS,
                WITH_LABEL,
                FROM,
                TO,
                STEP,
                AT_MOST,
                AGG,
                Param::new("limit", Shape::Whole(1, LIST_LIMIT.1 as u64, Some(LIST_LIMIT.0 as u64)), "Most series of a page."),
                NEXT,
                FOLLOW,
            ],
            answers: &[Answer {
                about: "A page of series: times t, and a column v for each device, path and aggregate. As CSV a row for each device, path and time: device, path, t, a cell for each aggregate.",
                forms: &[json(|g| g.subschema_for::<reply::FleetSeries<'static>>()), CSV],
                headers: &[Header::ETag, Header::EventId, Header::Link],
                example: r#"{"from":1795450000000,"to":1795450120000,"step_ms":60000,"tier":"raw","t":[1795449960000,1795450020000,1795450080000],"series":[{"device":"edge_device_01","path":"/cpu/utilization","unit":"1","kind":"gauge","agg":"avg","v":[0.125,null,0.25]}],"next_cursor":null}"#,
                ..OK
            }],
            problems: &[Kind::InvalidParameter, Kind::TooManyPoints],
            example: "?path=/cpu/utilization&from=-6h&step=5m",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/events",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Stream(events::stream),
            id: "followEvents",
            summary: "What happens, as it happens: server-sent events, without an end.",
            about: "Events: samples (a frame that was stored), status, source, device, and gap (not all events behind from up to to are sent). Whoever comes again with the last id gets \
                    every event behind it, as long as these are kept, else a gap. An id without data and a comment come at least every 15 s. A client that reads nothing for 30 s is let go. \
                    While the store opens, the stream is a comment that says how far it is, without an id, and ends: come again.",
            params: &[
                IDS,
                Param::new("path", PATH, "Of samples, what is at or below these paths; a segment * stands for any one name. Default: all.")
                    .up_to(MAX_PATHS)
                    .such_as("/cpu"),
                Param::new(
                    "types",
                    Shape::Words(|| EventKind::ALL.map(EventKind::as_str).to_vec()),
                    "Which events. Default: all.",
                ),
                Param::new(
                    "min_interval",
                    DURATION,
                    "100ms to 1h; a plain number is milliseconds. Of each thing no more than the newest, once in this time.",
                )
                .such_as("1s"),
                Param::new("last_event_id", EVENT_ID, "The id after which to go on."),
                Param::header("Last-Event-ID", EVENT_ID, "As last_event_id, which it has precedence over."),
            ],
            answers: &[Answer {
                about: "The stream.",
                forms: &[("text/event-stream", None)],
                ..OK
            }],
            example: "?device=edge_*&types=samples&path=/cpu/utilization",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/status",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::status),
            id: "getStatus",
            summary: "The collector itself: intake, store, clients of events.",
            about: "The state of the store is ok, degraded (messages are taken in and safe, but reason asks for a look) or failing (none are taken in). rejected has a key for each reason \
                    for which a message can be refused.",
            answers: &[Answer {
                about: "Its figures.",
                forms: &[json(|g| g.subschema_for::<reply::Status<'static>>())],
                headers: &[Header::ETag],
                example: r#"{"version":"0.1.0","started":1795450000000,"devices":{"online":1,"stale":0,"offline":0},"series":57,"intake":{"mode":"listener","connections":1,"messages":4711,"samples":268527,"duplicates":0,"dead_letters":0,"rejected":{"invalid_json":0},"last_commit_ms":2.1,"broker":null},"store":{"state":"ok","reason":null,"journal_bytes":1048576,"blocks":12,"database_bytes":524288,"head_samples":1000,"dead_letters_bytes":0,"archive_files":41,"archive_bytes":9437184,"oldest_day":1792800000000,"oldest_day_1m":1791849600000,"oldest_day_1h":null},"events":{"clients":1,"sent":4711,"gaps":0,"dropped":0},"remote_write":[{"name":"victoria","url":"http://127.0.0.1:8428/api/v1/write","state":"ok","reason":null,"samples_sent":268527,"samples_dropped":{},"failures":{},"behind_seconds":0.4,"behind_bytes":0,"last_sent":1795450060000,"last_refusal":null}],"home_assistant":null}"#,
                ..OK
            }],
            ..GET
        }],
    },
    Route {
        path: "/api/v1/dead-letters",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::dead_letters),
            id: "listDeadLetters",
            summary: "What arrived and was refused, the newest first.",
            about: "payload shows the first 4 KiB, and truncated says so; the whole is at /api/v1/dead-letters/{id}.",
            params: &[
                LIMIT,
                NEXT,
                Param::new(
                    "reason",
                    Shape::Word(|| Reason::ALL.iter().map(|reason| reason.as_str()).collect()),
                    "Only what was refused for this.",
                ),
            ],
            answers: &[Answer {
                about: "A page of dead letters.",
                forms: &[json(|g| g.subschema_for::<reply::List<reply::DeadLetterItem<'static>>>())],
                headers: &[Header::ETag, Header::Link],
                example: r#"{"items":[{"id":"17","ts":1795450060000,"topic":"devmon/v1/0/edge_device_01/metrics","reason":"invalid_json","detail":"key must be a string at line 1 column 2","size":9,"payload":"{not json","payload_encoding":"utf-8"}],"next_cursor":null}"#,
                ..OK
            }],
            example: "?limit=10",
            ..GET
        }],
    },
    Route {
        path: "/api/v1/dead-letters/{id}",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(endpoints::dead_letter),
            id: "getDeadLetter",
            summary: "A refused message, as it came.",
            about: "",
            params: &[Param::segment("id", Shape::Whole(0, u64::MAX, None), "Its id.").such_as("17")],
            answers: &[Answer {
                about: "Its bytes, for saving.",
                forms: &[("application/octet-stream", None)],
                headers: &[Header::ContentDisposition],
                ..OK
            }],
            problems: &[Kind::InvalidParameter, Kind::NotFound],
            example: "17",
            ..GET
        }],
    },
];

/// On what a stream may go on from.
const FOLLOW: Param = Param::new(
    "follow",
    Shape::Word(|| vec!["true", "false"]),
    "true: the header Event-Id says where a stream of events goes on from this answer (as Last-Event-ID), so that nothing between the two is missed. Default: false.",
);
/// A label's name, or name and value.
const LABEL: Shape = Shape::Form("^[a-z][a-z0-9_]{0,62}(:[^\\u0000]{0,256})?$");
const EVENT_ID: Shape = Shape::Form("^[0-9A-Fa-f]{16}-[0-9]{1,19}$");
