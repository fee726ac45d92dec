//! The calls for series: of one device, and of one metric of many. Of any length, so answered by [`large`].

use std::iter::once;

use devmon_core::wire::TimestampMs;
use warp::reply::Response;

use super::accept::Media;
use super::endpoints::Call;
use super::events::Begun;
use super::page::Cursor;
use super::params::{MAX_PATHS, Params, Segment, all};
use super::problem::{Kind as Error, Problem};
use super::reply::{self, ColumnHead, FleetColumnHead, FleetSeriesHead, SeriesHead};
use super::sheet::{Csv, Json, Sheet};
use super::{Api, csv, large};
use crate::query::aggregate::Aggregate;
use crate::query::{fleet, fleet_series, range};

pub(super) fn of_device(api: &Api, call: &Call, device: &Segment) -> Result<Response, Problem> {
    let known = [
        "path", "from", "to", "step", "points", "agg", "limit", "cursor", "follow",
    ];
    let now = TimestampMs::now();
    let (params, (mut query, follow)) = call.asked(&known, |params| {
        all((params.series(device.device(), now), params.follow()))
    })?;
    let media = Media::of(&call.headers)?;
    let begun = Begun::by(api, follow)?;
    query.paths = fleet::expand(&*api.store, &query.device, query.paths, MAX_PATHS)?;
    let answer = range::series(&*api.store, &query)?;
    let about = api
        .store
        .device(&query.device)
        .and_then(|record| record.about);
    let described = api.descriptors.of(about.as_ref());
    let cursor = answer.next.map(|next| {
        let (from, to) = (query.from, query.to);
        Cursor::Series {
            next,
            from,
            to,
            step_ms: answer.step_ms,
        }
        .text(params.query())
    });
    let head = SeriesHead {
        device: &query.device,
        from: query.from,
        to: query.to,
        step_ms: answer.step_ms,
        tier: answer.tier.as_str(),
    };
    // A raw answer has one column for each path, another one for each of its aggregates.
    let aggregates: Vec<Option<Aggregate>> = match &query.aggregates[..] {
        [] => vec![None],
        aggregates => aggregates.iter().copied().map(Some).collect(),
    };
    let columns = || {
        let paths = query.paths.iter();
        paths.flat_map(|path| aggregates.iter().map(move |aggregate| (path, *aggregate)))
    };
    let sheet = Sheet::new(answer.t, answer.columns);
    let written = match media {
        Media::Json => {
            let heads = columns().map(|(path, agg)| ColumnHead::new(path, agg, &described));
            json(api, Json::new(&head, heads, sheet, cursor.as_deref()))
        }
        Media::Csv => {
            let names = columns().map(|(path, agg)| match agg {
                None => path.to_string(),
                Some(agg) => format!("{}({path})", agg.as_str()),
            });
            let header = once("t".to_owned()).chain(names).collect();
            let sheet = Csv::new(header, vec![Vec::new()], sheet);
            large::answer(&api.room, csv::CONTENT_TYPE, sheet)
        }
    };
    let closed = params.is_closed(query.to, now);
    Ok(finish(written?, call, &params, cursor, closed, begun))
}

pub(super) fn of_fleet(api: &Api, call: &Call, _: &Segment) -> Result<Response, Problem> {
    let known = [
        "path", "device", "q", "status", "label", "from", "to", "step", "points", "agg", "limit",
        "cursor", "follow",
    ];
    let now = TimestampMs::now();
    let (params, (query, follow)) = call.asked(&known, |params| {
        all((params.fleet_series(now), params.follow()))
    })?;
    let media = Media::of(&call.headers)?;
    let begun = Begun::by(api, follow)?;
    let mut answer = fleet_series::series(&*api.store, &api.descriptors, &query, now)?;
    let (from, to, step_ms) = (query.from, query.to, answer.step_ms);
    let cursor = answer.next.map(|(device, path)| {
        Cursor::FleetSeries {
            device,
            path,
            from,
            to,
            step_ms,
        }
        .text(params.query())
    });
    let columns = answer.series.iter_mut();
    let columns = columns.flat_map(|series| std::mem::take(&mut series.columns));
    let sheet = Sheet::new(answer.t, columns.collect());
    let written = match media {
        Media::Json => {
            let head = FleetSeriesHead {
                from,
                to,
                step_ms,
                tier: answer.tier.as_str(),
            };
            let heads = answer.series.iter().flat_map(|series| {
                let aggregates = query.aggregates.iter();
                aggregates.map(|aggregate| FleetColumnHead {
                    device: series.device.as_str(),
                    column: ColumnHead::new(&series.path, Some(*aggregate), &series.described),
                })
            });
            json(api, Json::new(&head, heads, sheet, cursor.as_deref()))
        }
        Media::Csv => {
            let aggregates = query.aggregates.iter().map(|agg| agg.as_str());
            let header = ["device", "path", "t"].into_iter().chain(aggregates);
            let header = header.map(str::to_owned).collect();
            let groups = answer.series.iter();
            let groups = groups.map(|s| vec![s.device.to_string(), s.path.to_string()]);
            let sheet = Csv::new(header, groups.collect(), sheet);
            large::answer(&api.room, csv::CONTENT_TYPE, sheet)
        }
    };
    let closed = params.is_closed(to, now);
    Ok(finish(written?, call, &params, cursor, closed, begun))
}

fn json(api: &Api, sheet: serde_json::Result<Json>) -> Result<Response, Problem> {
    let sheet = sheet.map_err(|error| {
        // Only a map with keys that are no strings can not be written; there is none.
        tracing::error!(%error, "an answer could not be written");
        Problem::new(Error::Internal, "the answer could not be written")
    })?;
    large::answer(&api.room, "application/json", sheet)
}

/// What both forms of both calls say in headers.
fn finish(
    response: Response,
    call: &Call,
    params: &Params,
    cursor: Option<String>,
    closed: bool,
    begun: Begun,
) -> Response {
    let link = call.link(params, cursor.as_deref());
    let mut response = reply::with_link(reply::with_vary(response), link);
    if closed && !begun.is_somewhere() {
        reply::keep_closed(&mut response);
    }
    begun.on(response)
}
