//! Samples on their way into requests: by series, each series by time.

use std::collections::HashMap;
use std::sync::Arc;

use super::encode::{self, Sample};

/// Encoded labels: what tells series apart.
pub(super) type Labels = Arc<[u8]>;

/// Samples of a stretch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    places: HashMap<Labels, usize>,
    series: Vec<(Labels, Vec<Sample>)>,
    samples: usize,
}

/// One request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) body: bytes::Bytes,
    pub(super) samples: u64,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.samples
    }

    pub(super) fn add(&mut self, labels: &Labels, sample: Sample) {
        let place = match self.places.get(labels) {
            Some(place) => *place,
            None => {
                self.places.insert(labels.clone(), self.series.len());
                self.series.push((labels.clone(), Vec::new()));
                self.series.len() - 1
            }
        };
        if let Some((_, samples)) = self.series.get_mut(place) {
            samples.push(sample);
            self.samples += 1;
        }
    }

    /// Requests of at most `max_samples` each. Of two samples of a series at one time the one that came last counts, as in the store.
    pub(super) fn requests(self, max_samples: usize) -> Result<Vec<Request>, snap::Error> {
        let max_samples = max_samples.max(1);
        let mut requests = Vec::new();
        let (mut open, mut count) = (Vec::new(), 0);
        let mut close = |open: &mut Vec<u8>, count: &mut usize| -> Result<(), snap::Error> {
            if *count > 0 {
                requests.push(Request {
                    body: encode::compress(open)?.into(),
                    samples: *count as u64,
                });
            }
            open.clear();
            *count = 0;
            Ok(())
        };
        for (labels, mut samples) in self.series {
            samples.sort_by_key(|(ts, _)| *ts); // stable: the last one stays last
            samples.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    *kept = *later;
                }
                same
            });
            let mut rest = samples.as_slice();
            while !rest.is_empty() {
                let (part, more) = rest.split_at(rest.len().min(max_samples - count));
                encode::put_series(&mut open, &labels, part);
                count += part.len();
                rest = more;
                if count >= max_samples {
                    close(&mut open, &mut count)?;
                }
            }
        }
        close(&mut open, &mut count)?;
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::decode;
    use super::*;

    #[test]
    fn each_series_is_sorted_and_the_last_of_two_at_one_time_counts() {
        let mut batch = Batch::default();
        let of = |name: &str| -> Labels { encode::labels(&mut vec![("__name__", name)]).into() };
        for (name, ts, value) in [
            ("a", 2, 1.0),
            ("b", 1, 2.0),
            ("a", 1, 3.0),
            ("a", 2, 4.0),
            ("a", 3, 5.0),
        ] {
            batch.add(&of(name), (ts, value));
        }
        assert_eq!(batch.len(), 5);
        let requests = batch.requests(3).unwrap();
        let sent: Vec<_> = requests
            .iter()
            .map(|request| {
                let read = decode(&request.body).timeseries;
                let text = read.iter().map(|series| {
                    let points = series.samples.iter();
                    let points = points.map(|p| format!("{}@{}", p.value, p.timestamp));
                    format!(
                        "{}={}",
                        series.labels[0].value,
                        points.collect::<Vec<_>>().join(",")
                    )
                });
                (request.samples, text.collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(
            sent,
            [(3, "a=3@1,4@2,5@3".to_owned()), (1, "b=2@1".to_owned())]
        );
        assert_eq!(Batch::default().requests(3).unwrap(), []);
    }
}
