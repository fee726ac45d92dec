//! Probes, the collector's documents about itself, and the dashboard.

use super::super::endpoints::{self, Handler};
use super::super::problem::Kind;
use super::super::{assets, openapi};
use super::{Access, Answer, Form, GET, Header, OK, Operation, Param, Route, Shape};

const fn probe(handler: Handler) -> Operation {
    Operation {
        handler,
        problems: &[],
        answers: &[Answer {
            about: "How it is.",
            forms: &[(
                "application/json",
                Some(|g| g.subschema_for::<endpoints::Probe<'static>>()),
            )],
            example: r#"{"status":"ok"}"#,
            ..OK
        }],
        ..GET
    }
}

/// What takes no parameters.
const PAGE: Operation = Operation {
    problems: &[],
    ..GET
};

const fn kept(about: &'static str, forms: &'static [Form]) -> Answer {
    Answer {
        about,
        forms,
        headers: &[Header::ETag],
        ..OK
    }
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        path: "/livez",
        access: Access::Everybody,
        calls: &[Operation {
            id: "livez",
            summary: "Whether the process runs.",
            about: "Answered also when all connections are taken, and while the store is being opened.",
            ..probe(Handler::Page(endpoints::livez))
        }],
    },
    Route {
        path: "/readyz",
        access: Access::Everybody,
        calls: &[Operation {
            id: "readyz",
            summary: "Whether messages are taken in.",
            about: "degraded: they are, but something waits for a person, or the broker is away, and reason says what. 503: they are not; detail says why, or how far the opening of the store is.",
            ..probe(Handler::Probe(endpoints::readyz))
        }],
    },
    Route {
        path: "/openapi.json",
        access: Access::Everybody,
        calls: &[Operation {
            handler: Handler::Page(openapi::document),
            id: "getOpenApi",
            summary: "This document: OpenAPI 3.1, of this very release.",
            answers: &[kept("The document.", &[("application/json", None)])],
            ..PAGE
        }],
    },
    Route {
        path: "/docs",
        access: Access::Everybody,
        calls: &[Operation {
            handler: Handler::Page(openapi::page::page),
            id: "getReference",
            summary: "This document as a page to read, which loads nothing from elsewhere.",
            answers: &[kept("The page.", &[("text/html", None)])],
            ..PAGE
        }],
    },
    Route {
        path: "/docs/reference.css",
        access: Access::Everybody,
        calls: &[Operation {
            handler: Handler::Page(openapi::page::style),
            id: "getReferenceStyle",
            summary: "How that page looks.",
            answers: &[kept("The style sheet.", &[("text/css", None)])],
            ..PAGE
        }],
    },
    Route {
        path: "/",
        access: Access::Everybody,
        calls: &[Operation {
            handler: Handler::Page(assets::index),
            id: "getDashboard",
            summary: "The dashboard.",
            answers: &[kept("The page.", &[("text/html", None)])],
            ..PAGE
        }],
    },
    Route {
        path: "/assets/{file}",
        access: Access::Everybody,
        calls: &[Operation {
            handler: Handler::Page(assets::file),
            id: "getDashboardFile",
            summary: "A file of the dashboard.",
            params: &[Param::segment("file", Shape::Text, "Its name.").such_as("favicon.svg")],
            problems: &[Kind::NotFound],
            answers: &[kept(
                "The file.",
                &[
                    ("text/javascript", None),
                    ("text/css", None),
                    ("image/svg+xml", None),
                    ("image/png", None),
                    ("font/woff2", None),
                    ("application/json", None),
                    ("application/octet-stream", None),
                ],
            )],
            ..PAGE
        }],
    },
];
