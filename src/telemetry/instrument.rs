//! Kinds of instruments. Each is a static ([`super::metrics`]) that is made when it is first used,
//! and does nothing when metrics are off.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

/// An instrument of OpenTelemetry; absent when metrics are off.
struct Lazy<T>(OnceLock<Option<T>>);

impl<T> Lazy<T> {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn get(&self, make: impl FnOnce(&Meter) -> T) -> Option<&T> {
        self.0.get_or_init(|| super::meter().map(make)).as_ref()
    }
}

/// What a metric is called, in what unit it is, and what it means.
struct Definition {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
}

/// Counts events by one attribute, whose values are constants of the code.
pub struct Events {
    definition: Definition,
    attribute: &'static str,
    /// The values that are exported from the start, as 0: the first event of a counter that
    /// appears with it is no increase.
    values: &'static [&'static str],
    counter: Lazy<Counter<u64>>,
}

impl Events {
    pub(super) const fn new(
        name: &'static str,
        unit: &'static str,
        description: &'static str,
        attribute: &'static str,
        values: &'static [&'static str],
    ) -> Self {
        let definition = Definition { name, unit, description };
        Self { definition, attribute, values, counter: Lazy::new() }
    }

    /// Counts one event.
    pub fn count(&self, value: &'static str) {
        self.add(1, value);
    }

    /// Exports the known values as 0.
    pub(super) fn begin(&self) {
        for value in self.values {
            self.add(0, value);
        }
    }

    fn add(&self, events: u64, value: &'static str) {
        let counter = self.counter.get(|meter| {
            let Definition { name, unit, description } = self.definition;
            meter.u64_counter(name).with_unit(unit).with_description(description).build()
        });
        if let Some(counter) = counter {
            counter.add(events, &[KeyValue::new(self.attribute, value)]);
        }
    }
}

/// A histogram.
pub struct Distribution {
    definition: Definition,
    boundaries: &'static [f64],
    histogram: Lazy<Histogram<f64>>,
}

impl Distribution {
    pub(super) const fn new(
        name: &'static str,
        unit: &'static str,
        description: &'static str,
        boundaries: &'static [f64],
    ) -> Self {
        let definition = Definition { name, unit, description };
        Self { definition, boundaries, histogram: Lazy::new() }
    }

    /// Whether values are recorded.
    pub(super) fn is_on(&self) -> bool {
        self.get().is_some()
    }

    /// Records a value.
    pub fn record(&self, value: f64, attributes: &[KeyValue]) {
        if let Some(histogram) = self.get() {
            histogram.record(value, attributes);
        }
    }

    /// Records a duration, in seconds.
    pub(super) fn record_time(&self, took: Duration, attributes: &[KeyValue]) {
        self.record(took.as_secs_f64(), attributes);
    }

    fn get(&self) -> Option<&Histogram<f64>> {
        self.histogram.get(|meter| {
            let Definition { name, unit, description } = self.definition;
            let histogram = meter.f64_histogram(name).with_unit(unit);
            histogram
                .with_description(description)
                .with_boundaries(self.boundaries.to_vec())
                .build()
        })
    }
}

/// A number of things that exist at the moment. An up-down counter, whose values are summed over
/// replicas; backends show it as a gauge.
pub struct Level(Definition);

impl Level {
    pub(super) const fn new(
        name: &'static str,
        unit: &'static str,
        description: &'static str,
    ) -> Self {
        Self(Definition { name, unit, description })
    }

    /// Exports what `read` returns. It is called with each export, so it must not block.
    pub fn observe(&self, read: impl Fn() -> usize + Send + Sync + 'static) {
        self.observe_each(move |observe| observe(read(), &[]));
    }

    /// Exports each value that `read` gives to its argument, with its attributes.
    pub fn observe_each(
        &self,
        read: impl Fn(&mut dyn FnMut(usize, &[KeyValue])) + Send + Sync + 'static,
    ) {
        let Some(meter) = super::meter() else { return };
        let Definition { name, unit, description } = self.0;
        let level = meter.i64_observable_up_down_counter(name).with_unit(unit);
        // The provider keeps the instrument, not the value that `build` returns.
        let _instrument = level
            .with_description(description)
            .with_callback(move |observer| {
                read(&mut |value, attributes| {
                    observer.observe(i64::try_from(value).unwrap_or(i64::MAX), attributes);
                });
            })
            .build();
    }
}

/// A number that cannot be summed over replicas, such as an age.
pub struct Gauge(Definition);

impl Gauge {
    pub(super) const fn new(
        name: &'static str,
        unit: &'static str,
        description: &'static str,
    ) -> Self {
        Self(Definition { name, unit, description })
    }

    /// Exports what `read` returns; see [`Level::observe`].
    pub fn observe(&self, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.observe_each(move |observe| observe(read(), &[]));
    }

    /// Exports each value that `read` gives to its argument, with its attributes.
    pub fn observe_each(
        &self,
        read: impl Fn(&mut dyn FnMut(f64, &[KeyValue])) + Send + Sync + 'static,
    ) {
        let Some(meter) = super::meter() else { return };
        let Definition { name, unit, description } = self.0;
        let gauge = meter.f64_observable_gauge(name).with_unit(unit);
        let _instrument = gauge
            .with_description(description)
            .with_callback(move |observer| {
                read(&mut |value, attributes| observer.observe(value, attributes));
            })
            .build();
    }
}
