//! What joules, seconds and being late cost tenants with budgets on means and percentiles.

use moe2_model::Event;
use prometheus::{Error, GaugeVec, Opts, Registry};

/// The prices' family.
#[derive(Debug, Clone)]
pub(crate) struct Prices {
    price: GaugeVec,
}

impl Prices {
    pub(crate) fn new() -> Result<Self, Error> {
        let opts = Opts::new(
            "moe2_price",
            "Quality that a joule, a second, one until the first token or being late costs a tenant with a budget on a mean or a percentile.",
        );
        let price = GaugeVec::new(opts, &["tenant", "per"])?;
        Ok(Self { price })
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), Error> {
        registry.register(Box::new(self.price.clone()))
    }

    /// Takes note of prices; other events are none of it.
    pub(crate) fn fold(&self, event: &Event) {
        let Event::Priced {
            tenant,
            per_joule,
            per_second,
            per_first_token_second,
            per_late,
        } = event
        else {
            return;
        };
        let prices = [
            ("joule", per_joule),
            ("second", per_second),
            ("first_token_second", per_first_token_second),
            ("late", per_late),
        ];
        for (per, price) in prices {
            if let Some(price) = price {
                let labels = [tenant.as_str(), per];
                self.price.with_label_values(&labels).set(*price);
            }
        }
    }
}
