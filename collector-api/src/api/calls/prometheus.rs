//! What Prometheus and Grafana ask: expositions, and the query API below `/prometheus`. `docs/prometheus.md` tells it at length.
//!
//! A query's own errors come in Prometheus' envelope; the router's (no token, no store, a form that is too long) as problem documents.

use super::super::endpoints::Handler;
use super::super::openapi::schemas;
use super::super::params::{MAX_DEVICES, MAX_PATHS};
use super::super::problem::Kind;
use super::super::prometheus::{self, query};
use super::{
    Access, Answer, DEVICES, Form, GET, Header, OK, Operation, PATH, PREFIX, Param, Route, SAID,
    Shape, Verb,
};

const EXPOSED: Answer = Answer {
    about: "The exposition, in the form that Accept prefers.",
    forms: &[("text/plain", None), ("application/openmetrics-text", None)],
    headers: &[Header::Vary],
    ..OK
};

const fn failed(status: u16, about: &'static str) -> Answer {
    Answer {
        status,
        about,
        forms: &[("application/json", Some(schemas::query_error))],
        headers: &[],
        example: "",
    }
}

const BAD_DATA: Answer = Answer {
    example: r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": it is missing"}"#,
    ..failed(400, "bad_data: a parameter or the query is malformed.")
};
const EXECUTION: Answer = failed(
    422,
    "execution: the query asks for what is not supported, or for more than a limit.",
);
const TIMEOUT: Answer = failed(503, "timeout: the query took longer than it may.");
const INTERNAL: Answer = failed(500, "internal: the store could not be read.");

const fn good(form: &'static [Form]) -> Answer {
    Answer {
        about: "The answer, in Prometheus' envelope.",
        forms: form,
        headers: &[Header::ETag],
        ..OK
    }
}

/// Unix seconds with decimals, or as the other calls take a time.
const TIME: Shape = Shape::Text;
const QUERY: Param = Param::new("query", SAID, "The expression, in PromQL.")
    .needed()
    .such_as("devmon_cpu_utilization");
const PATIENCE: Param = Param::new(
    "timeout",
    Shape::Text,
    "Seconds, or a duration as Prometheus writes it (1m30s): how long it may take, if shorter than 30 s.",
)
.such_as("10s");
const MATCH: Param = Param::new("match[]", SAID, "A selector of series.")
    .up_to(usize::MAX)
    .such_as("devmon_cpu_utilization");
const START: Param =
    Param::new("start", TIME, "The begin: unix seconds or RFC 3339.").such_as("-1h");
const END: Param = Param::new("end", TIME, "The end, which is part of the range.").such_as("now");

/// GET, and POST with a form.
const fn both(get: Operation, post: &'static str) -> [Operation; 2] {
    let again = Operation {
        verb: Verb::Post,
        id: post,
        example: "",
        ..copied(&get)
    };
    [get, again]
}

const fn copied(call: &Operation) -> Operation {
    Operation {
        verb: call.verb,
        handler: call.handler,
        id: call.id,
        summary: call.summary,
        about: call.about,
        params: call.params,
        body: call.body,
        answers: call.answers,
        problems: call.problems,
        example: call.example,
    }
}

/// A call of the query API: none of its own errors is a problem document.
const QUERY_API: Operation = Operation {
    problems: &[],
    ..GET
};

pub(super) static ROUTES: &[Route] = &[
    Route {
        path: "/metrics",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Probe(prometheus::own),
            id: "scrapeCollector",
            summary: "The collector's own figures, for a Prometheus to scrape.",
            answers: &[EXPOSED],
            ..GET
        }],
    },
    Route {
        path: "/metrics/devices",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Large(prometheus::devices),
            id: "scrapeDevices",
            summary: "The newest values of all devices, for a Prometheus to scrape.",
            about: "Values of offline devices, and values older than five minutes or three intervals of their source, are left out. At most 250 000 series.",
            params: &[
                Param::new(
                    "device",
                    DEVICES,
                    "Which devices: ids, or patterns of them with * for any characters. Default: all.",
                )
                .up_to(MAX_DEVICES)
                .such_as("edge*"),
                Param::new("prefix", PREFIX, "A path: it and all below it.").such_as("/cpu"),
                Param::new(
                    "path",
                    PATH,
                    "Which metrics: a path, in which a segment * stands for any one name.",
                )
                .up_to(MAX_PATHS)
                .once_each(),
            ],
            answers: &[Answer {
                headers: &[Header::ETag, Header::Vary],
                ..EXPOSED
            }],
            problems: &[Kind::InvalidParameter, Kind::TooManyPoints],
            example: "?device=edge*&prefix=/cpu",
            ..GET
        }],
    },
    Route {
        path: "/prometheus/api/v1/query",
        access: Access::Token,
        calls: &both(
            Operation {
                handler: Handler::Query(query::instant),
                id: "query",
                summary: "A PromQL query at one time.",
                params: &[
                    QUERY,
                    Param::new(
                        "time",
                        TIME,
                        "When: unix seconds or RFC 3339. Default: now.",
                    ),
                    PATIENCE,
                ],
                answers: &[
                    Answer {
                        example: r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"devmon_cpu_utilization","device":"edge_device_01"},"value":[1795450060,"0.125"]}]}}"#,
                        ..good(&[("application/json", Some(schemas::instant))])
                    },
                    BAD_DATA,
                    EXECUTION,
                    INTERNAL,
                    TIMEOUT,
                ],
                example: "?query=devmon_cpu_utilization",
                ..QUERY_API
            },
            "queryByForm",
        ),
    },
    Route {
        path: "/prometheus/api/v1/query_range",
        access: Access::Token,
        calls: &both(
            Operation {
                handler: Handler::Query(query::range),
                id: "queryRange",
                summary: "A PromQL query over a range of time.",
                params: &[
                    QUERY,
                    START.needed(),
                    END.needed(),
                    Param::new(
                        "step",
                        SAID,
                        "Seconds, or a duration as Prometheus writes it (1h30m), between two points; at most 11 000 of them.",
                    )
                    .needed()
                    .such_as("60"),
                    PATIENCE,
                ],
                answers: &[
                    good(&[("application/json", Some(schemas::range))]),
                    BAD_DATA,
                    EXECUTION,
                    INTERNAL,
                    TIMEOUT,
                ],
                example: "?query=devmon_cpu_utilization&start=-1h&end=now&step=60",
                ..QUERY_API
            },
            "queryRangeByForm",
        ),
    },
    Route {
        path: "/prometheus/api/v1/series",
        access: Access::Token,
        calls: &both(
            Operation {
                handler: Handler::Query(query::series),
                id: "listSeries",
                summary: "The label sets of the series that fit a selector.",
                params: &[MATCH.needed(), START, END],
                answers: &[
                    good(&[("application/json", Some(schemas::label_sets))]),
                    BAD_DATA,
                    EXECUTION,
                    INTERNAL,
                    TIMEOUT,
                ],
                example: "?match[]=devmon_cpu_utilization",
                ..QUERY_API
            },
            "listSeriesByForm",
        ),
    },
    Route {
        path: "/prometheus/api/v1/labels",
        access: Access::Token,
        calls: &both(
            Operation {
                handler: Handler::Query(query::labels),
                id: "listLabels",
                summary: "The names of labels.",
                params: &[MATCH, START, END],
                answers: &[
                    good(&[("application/json", Some(schemas::texts))]),
                    BAD_DATA,
                    EXECUTION,
                    INTERNAL,
                    TIMEOUT,
                ],
                ..QUERY_API
            },
            "listLabelsByForm",
        ),
    },
    Route {
        path: "/prometheus/api/v1/label/{name}/values",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Query(query::label_values),
            id: "listLabelValues",
            summary: "The values of a label.",
            params: &[
                Param::segment("name", Shape::Text, "The label's name.").such_as("device"),
                MATCH,
                START,
                END,
            ],
            answers: &[
                good(&[("application/json", Some(schemas::texts))]),
                BAD_DATA,
                EXECUTION,
                INTERNAL,
                TIMEOUT,
            ],
            example: "device",
            ..QUERY_API
        }],
    },
    Route {
        path: "/prometheus/api/v1/metadata",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Query(query::metadata),
            id: "listMetadata",
            summary: "Type, help and unit of the metrics, by name.",
            params: &[
                Param::new("metric", Shape::Text, "Only of this name.")
                    .such_as("devmon_cpu_utilization"),
                Param::new(
                    "limit",
                    Shape::Text,
                    "At most so many names; what is no number is no limit.",
                )
                .such_as("10"),
            ],
            answers: &[
                good(&[("application/json", Some(schemas::metadata))]),
                BAD_DATA,
                EXECUTION,
                INTERNAL,
                TIMEOUT,
            ],
            ..QUERY_API
        }],
    },
    Route {
        path: "/prometheus/api/v1/status/buildinfo",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(query::build_info),
            id: "getBuildInfo",
            summary: "The version of Prometheus whose rules are followed.",
            answers: &[good(&[("application/json", Some(schemas::build_info))])],
            ..QUERY_API
        }],
    },
    Route {
        path: "/prometheus/api/v1/rules",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(query::rules),
            id: "listRules",
            summary: "No rules: Grafana asks for them.",
            answers: &[good(&[("application/json", Some(schemas::no_rules))])],
            ..QUERY_API
        }],
    },
    Route {
        path: "/prometheus/api/v1/alerts",
        access: Access::Token,
        calls: &[Operation {
            handler: Handler::Store(query::alerts),
            id: "listAlerts",
            summary: "No alerts: Grafana asks for them.",
            answers: &[good(&[("application/json", Some(schemas::no_alerts))])],
            ..QUERY_API
        }],
    },
];
