//! Every call that the collector answers, each described once, in the tables of [`rest`], [`prometheus`] and [`own`]: its path, who may ask, what does the work, what it
//! takes and what it answers.
//!
//! The router, the `Allow` of a 405, `/openapi.json` and the page `/docs` are made from these tables. What follows from the rest is not said in them but derived (`openapi`): that a call
//! which needs the token may be answered with 401, that one with a form has a 415, that what may be kept has an `ETag` and a 304.
//!
//! Left to others: the work itself (`endpoints` and its neighbours) and the parameters' reading (`params`). Tests hold these tables against real answers and real parameters.

mod own;
mod prometheus;
mod rest;

use schemars::{Schema, SchemaGenerator};
use warp::http::Method;

use super::endpoints::Handler;
use super::params::Segment;
use super::problem::Kind;

/// Whether a call needs the token, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Token,
    Everybody,
}

/// A path and what can be done there.
pub(super) struct Route {
    /// From the root; a name in braces stands for one segment, and a path has at most one.
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) calls: &'static [Operation],
}

/// A method of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// HEAD too.
    Get,
    /// Asks the same as GET with a form for the query string.
    Post,
    /// Changes something, as [`Delete`](Self::Delete) does: only for the holder of a token that is configured.
    Patch,
    Delete,
}

impl Verb {
    /// The method as OpenAPI names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::POST => Some(Self::Post),
            Method::PATCH => Some(Self::Patch),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    /// Whoever may sit at this machine may look; to change or take away, one must have been trusted.
    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Patch | Self::Delete)
    }
}

/// One method of one path.
pub(super) struct Operation {
    pub(super) verb: Verb,
    pub(super) handler: Handler,
    /// Its name for programs that are made from the document.
    pub(super) id: &'static str,
    /// A line.
    pub(super) summary: &'static str,
    /// What a caller has to know beyond parameters and answers.
    pub(super) about: &'static str,
    pub(super) params: &'static [Param],
    /// What it brings; a POST without one brings its parameters as a form.
    pub(super) body: Option<Body>,
    pub(super) answers: &'static [Answer],
    /// What may go wrong beyond what may in every call of its kind.
    pub(super) problems: &'static [Kind],
    /// What an example of it adds to the path, whose placeholder it fills: `edge_device_01?limit=10`.
    pub(super) example: &'static str,
}

/// A GET of which all else has to be said.
const GET: Operation = Operation {
    verb: Verb::Get,
    handler: Handler::Nothing,
    id: "",
    summary: "",
    about: "",
    params: &[],
    body: None,
    answers: &[],
    problems: &[Kind::InvalidParameter],
    example: "",
};

/// What a call brings.
#[derive(Clone, Copy)]
pub(super) struct Body {
    /// What it may be said to be.
    pub(super) media: &'static [&'static str],
    pub(super) schema: SchemaOf,
    /// In JSON.
    pub(super) example: &'static str,
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Query,
    Path,
    Header,
}

/// Something that a caller gives.
#[derive(Clone, Copy)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) required: bool,
    /// May stand so many times.
    pub(super) most: usize,
    /// Of what stands several times, or has several words, each only once.
    pub(super) once_each: bool,
    pub(super) shape: Shape,
    pub(super) about: &'static str,
    pub(super) example: &'static str,
}

impl Param {
    /// An optional parameter of the query string that stands once.
    const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self {
            name,
            place: Place::Query,
            required: false,
            most: 1,
            once_each: false,
            shape,
            about,
            example: "",
        }
    }

    const fn segment(name: &'static str, shape: Shape, about: &'static str) -> Self {
        let mut param = Self::new(name, shape, about);
        param.place = Place::Path;
        param.required = true;
        param
    }

    const fn header(name: &'static str, shape: Shape, about: &'static str) -> Self {
        let mut param = Self::new(name, shape, about);
        param.place = Place::Header;
        param
    }

    const fn needed(mut self) -> Self {
        self.required = true;
        self
    }

    const fn up_to(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    const fn once_each(mut self) -> Self {
        self.once_each = true;
        self
    }

    const fn such_as(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
}

/// What a parameter's text looks like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    /// A whole number: from, to, and what it is when left out.
    Whole(u64, u64, Option<u64>),
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    /// One of these fields, to sort by, the largest first with a - before it.
    Sort(fn() -> Vec<&'static str>),
    /// Some of these words, with commas between.
    Words(fn() -> Vec<&'static str>),
    /// A text of this form (ECMA 262).
    Form(&'static str),
}

/// Characters of a device id, and `*` for any.
pub(super) const DEVICES: Shape = Shape::Form("^(?!.*\\*\\*)[A-Za-z0-9._:*-]{1,128}$");
/// A text of one character at least that is no space.
pub(super) const SAID: Shape = Shape::Form("\\S");
/// A device id.
pub(super) const DEVICE: Shape = Shape::Form("^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$");
/// A path of a metric: a JSON Pointer (RFC 6901). That a name has at most 128 bytes is not in it, for bytes are not characters.
pub(super) const PATH: Shape = Shape::Form("^(/([^/~\\u0000]|~[01])+){1,17}$");
/// A path, or nothing; as folders are written too.
pub(super) const PREFIX: Shape = Shape::Form("^(/|(/([^/~\\u0000]|~[01])+){1,17}/?)?$");
/// A point in time.
pub(super) const TIME: Shape = Shape::Form(
    "^(now|-[0-9]{1,9}(ms|s|m|h|d)|[0-9]{1,14}|[0-9]{1,11}\\.[0-9]+|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?([Zz]|[+ -][0-9]{2}:[0-9]{2}))$",
);
/// A duration, or milliseconds.
pub(super) const DURATION: Shape = Shape::Form("^[0-9]{1,12}(ms|s|m|h|d)?$");
/// Base64 of the URL's alphabet.
pub(super) const CURSOR: Shape = Shape::Form("^[A-Za-z0-9_-]+$");

/// A good answer, or an error in a form of its own.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) about: &'static str,
    /// Its forms; none: it has no body.
    pub(super) forms: &'static [Form],
    pub(super) headers: &'static [Header],
    /// A JSON body as an example.
    pub(super) example: &'static str,
}

/// A form of an answer: its media type, and its schema if it has one.
pub(super) type Form = (&'static str, Option<SchemaOf>);

/// Makes a schema, and notes the definitions that it refers to.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// An answer of 200 of which all else has to be said.
const OK: Answer = Answer {
    status: 200,
    about: "",
    forms: &[],
    headers: &[],
    example: "",
};

/// A header of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    ContentDisposition,
    ETag,
    /// Only with `follow=true`.
    EventId,
    /// Only if there is another page.
    Link,
    Vary,
}

/// All paths, in the order of the document.
pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    rest::ROUTES
        .iter()
        .chain(own::ROUTES)
        .chain(prometheus::ROUTES)
}

/// Below these nobody learns without the token what is there and what is not.
static CLOSED: Route = Route {
    path: "",
    access: Access::Token,
    calls: &[],
};
static OPEN: Route = Route {
    path: "",
    access: Access::Everybody,
    calls: &[],
};

impl Route {
    /// The route of a path, with the segment that stands for its placeholder; one without calls if there is none. A slash at the end changes nothing.
    pub(super) fn of(path: &str) -> (&'static Self, Segment) {
        let path = path.strip_suffix('/').unwrap_or(path);
        let found = routes().find_map(|route| Some((route, route.fits(path)?)));
        found.unwrap_or_else(|| {
            let first = path.split('/').nth(1).unwrap_or_default();
            let closed = ["api", "prometheus"].contains(&first);
            (if closed { &CLOSED } else { &OPEN }, Segment::default())
        })
    }

    fn fits(&self, path: &str) -> Option<Segment> {
        let template = self.path.strip_suffix('/').unwrap_or(self.path);
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        let mut found = Segment::default();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Some(found),
                (Some(wanted), Some(given)) if wanted == given => {}
                (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {
                    found = Segment::new(given);
                }
                _ => return None,
            }
        }
    }

    /// What is done on this method.
    pub(super) fn call(&self, method: &Method) -> Option<&'static Operation> {
        let verb = Verb::of(method)?;
        self.calls.iter().find(|call| call.verb == verb)
    }

    /// The methods that there are, for `Allow`.
    pub(super) fn allow(&self) -> &'static str {
        let has = |verb| self.calls.iter().any(|call| call.verb == verb);
        match (has(Verb::Post), has(Verb::Patch), has(Verb::Delete)) {
            (false, false, false) => "GET, HEAD",
            (true, false, false) => "GET, HEAD, POST",
            (false, true, false) => "GET, HEAD, PATCH",
            (false, false, true) => "GET, HEAD, DELETE",
            (false, true, true) => "GET, HEAD, PATCH, DELETE",
            (true, true, false) => "GET, HEAD, POST, PATCH",
            (true, false, true) => "GET, HEAD, POST, DELETE",
            (true, true, true) => "GET, HEAD, POST, PATCH, DELETE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_found_by_its_own_name_only() {
        for route in routes() {
            let path = route.path.replace(['{', '}'], "");
            assert_eq!(Route::of(&path).0.path, route.path);
            let path = path.trim_end_matches('/');
            assert_eq!(Route::of(&format!("{path}/")).0.path, route.path, "{path}/");
            assert_eq!(
                Route::of(&format!("{path}/x/y/z")).0.path,
                "",
                "{path}/x/y/z"
            );
        }
        assert_eq!(Route::of("/api/v1/devices//metrics").0.path, "");
        assert_eq!(Route::of("/api").0.access, Access::Token);
        assert_eq!(Route::of("/apis").0.access, Access::Everybody);
        assert_eq!(Route::of("/prometheus/x").0.access, Access::Token);
    }

    #[test]
    fn calls_are_named_once_and_have_what_a_reader_needs() {
        let mut ids = std::collections::HashSet::new();
        for call in routes().flat_map(|route| route.calls) {
            assert!(ids.insert(call.id), "{} stands twice", call.id);
            assert!(
                call.summary.ends_with('.') && !call.answers.is_empty(),
                "{}",
                call.id
            );
            assert!(!matches!(call.handler, Handler::Nothing), "{}", call.id);
        }
    }
}
