//! What a joule and a second are worth to tenants with budgets on the mean.

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
            "Quality that a joule or a second is worth to a tenant with a budget on the mean.",
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
        } = event
        else {
            return;
        };
        for (per, price) in [("joule", per_joule), ("second", per_second)] {
            if let Some(price) = price {
                let labels = [tenant.as_str(), per];
                self.price.with_label_values(&labels).set(*price);
            }
        }
    }
}
