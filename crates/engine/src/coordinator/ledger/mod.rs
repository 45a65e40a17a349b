//! Joules per tenant: reserved before dispatch, settled after, within windows.
//!
//! Reserving the upper forecast first is what keeps a window from being overrun by many queries that
//! each looked affordable when they were admitted: what is reserved counts as spent until it is settled,
//! and then the difference is given back to the stretch of time it was taken from. So a window is
//! exceeded by at most what a dispatch used beyond its own reservation.
//!
//! The books are in memory; every change of them is also an [`Entry`], which the driver makes durable
//! before anyone outside sees what followed from it.

mod books;
mod marks;
mod window;

use std::collections::BTreeMap;

use moe2_model::{DispatchId, ExpertId, Joules, QueryId, TenantId, Usage};

pub(crate) use books::{Binding, Books, Full};
pub use books::{EnergyWindow, Left, Room, Spending};
pub use marks::Mark;
pub(super) use marks::Marks;
pub use window::{Span, Wall};

/// What one tenant owes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Account {
    /// Settled energy.
    pub spent: Joules,
    /// Upper bounds of work under way.
    pub reserved: Joules,
}

/// A change of the books.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// An upper bound was set aside.
    Reserved {
        /// For what.
        dispatch: DispatchId,
        /// Whose.
        tenant: TenantId,
        /// How much.
        bound: Joules,
        /// When.
        at: Wall,
    },
    /// A reservation became what was used.
    Settled(Box<Settled>),
    /// A reservation was given back: its work never left the coordinator.
    Released {
        /// Whose work.
        dispatch: DispatchId,
        /// Whose joules.
        tenant: TenantId,
        /// How much.
        bound: Joules,
    },
}

/// A dispatch whose use is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Which.
    pub dispatch: DispatchId,
    /// For which query.
    pub query: QueryId,
    /// Whose.
    pub tenant: TenantId,
    /// Who worked.
    pub expert: ExpertId,
    /// When it was reserved, which is the time it is charged to.
    pub reserved_at: Wall,
    /// When it was settled.
    pub at: Wall,
    /// What was reserved.
    pub bound: Joules,
    /// What is charged.
    pub energy: Joules,
    /// What the expert reported; nothing if it was lost.
    pub usage: Option<Usage>,
}

/// What is charged already when a coordinator starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// Joules by tenant and the time they were charged to.
    pub charges: BTreeMap<TenantId, Vec<(Wall, f64)>>,
}

#[derive(Debug)]
struct Reservation {
    tenant: TenantId,
    bound: Joules,
    at: Wall,
}

/// A query that was counted in.
#[derive(Debug)]
struct Entered {
    tenant: TenantId,
    at: Wall,
    /// Tokens counted for it so far; nothing while they are not limited.
    tokens: Option<f64>,
    reported: f64,
}

/// All tenants' books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: BTreeMap<TenantId, Books>,
    open: BTreeMap<DispatchId, Reservation>,
    entered: BTreeMap<QueryId, Entered>,
}

impl Ledger {
    /// Books with what was charged before this process began.
    pub(crate) fn new(past: Past) -> Self {
        let mut ledger = Self::default();
        for (tenant, charges) in past.charges {
            let books = ledger.books.entry(tenant).or_default();
            charges
                .iter()
                .for_each(|(at, joules)| books.remember(*at, *joules));
        }
        ledger
    }

    /// Takes tenants' limits. Those not named have none from now on; what they owe stays.
    pub(crate) fn limit<'t>(
        &mut self,
        now: Wall,
        tenants: impl Iterator<Item = (&'t TenantId, &'t Spending)>,
    ) {
        let mut limits: BTreeMap<&TenantId, &Spending> = tenants.collect();
        let mut open: BTreeMap<&TenantId, Vec<(Wall, f64)>> = BTreeMap::new();
        for reservation in self.open.values() {
            let own = open.entry(&reservation.tenant).or_default();
            own.push((reservation.at, reservation.bound.get()));
        }
        let under_way = |tenant| open.get(tenant).map_or(&[][..], Vec::as_slice);
        let none = Spending::default();
        for (tenant, books) in &mut self.books {
            let own = limits.remove(tenant).unwrap_or(&none);
            books.limit(now, own, under_way(tenant));
        }
        for (tenant, own) in limits {
            let books = self.books.entry(tenant.clone()).or_default();
            books.limit(now, own, &[]);
        }
        // A window that is made later must not be given back what was counted in one that is gone.
        for entered in self.entered.values_mut() {
            let books = self.books.get(&entered.tenant);
            if !books.is_some_and(Books::counts_tokens) {
                entered.tokens = None;
            }
        }
    }

    /// Joules reserved at or after a time and not settled yet.
    pub(crate) fn reserved_since(&self, tenant: &TenantId, since: Wall) -> Joules {
        let open = self.open.values();
        let own = open.filter(|r| r.tenant == *tenant && r.at >= since);
        own.map(|r| r.bound).sum()
    }

    /// Counts a query of about so many tokens in.
    pub(crate) fn enter(
        &mut self,
        now: Wall,
        query: QueryId,
        tenant: &TenantId,
        tokens: f64,
    ) -> Result<(), Full> {
        let books = self.books.entry(tenant.clone()).or_default();
        let counted = books.enter(now, tokens)?;
        let entered = Entered {
            tenant: tenant.clone(),
            at: now,
            tokens: counted.then_some(tokens),
            reported: 0.0,
        };
        self.entered.insert(query, entered);
        Ok(())
    }

    /// Counts a query out; its tokens are those reported from now on.
    pub(crate) fn leave(&mut self, now: Wall, query: QueryId) {
        let Some(entered) = self.entered.remove(&query) else {
            return;
        };
        let books = self.books.entry(entered.tenant).or_default();
        books.leave();
        if let Some(tokens) = entered.tokens {
            books.add_tokens(now, entered.at, entered.reported - tokens);
        }
    }

    /// Sets an upper bound aside for a dispatch. Each dispatch is reserved once.
    pub(crate) fn reserve(
        &mut self,
        now: Wall,
        dispatch: DispatchId,
        tenant: &TenantId,
        bound: Joules,
    ) -> Entry {
        let reservation = Reservation {
            tenant: tenant.clone(),
            bound,
            at: now,
        };
        let previous = self.open.insert(dispatch, reservation);
        debug_assert!(previous.is_none(), "dispatch {dispatch} is reserved once");
        let books = self.books.entry(tenant.clone()).or_default();
        books.reserve(now, bound);
        Entry::Reserved {
            dispatch,
            tenant: tenant.clone(),
            bound,
            at: now,
        }
    }

    /// Replaces a dispatch's reservation by what it used. Settling twice is ignored, so a repeated
    /// report bills nobody twice.
    pub(crate) fn settle(
        &mut self,
        now: Wall,
        dispatch: DispatchId,
        (query, expert): (QueryId, &ExpertId),
        usage: Option<Usage>,
    ) -> Option<Entry> {
        let Reservation { tenant, bound, at } = self.open.remove(&dispatch)?;
        let energy = usage.map_or(Joules::ZERO, |usage| usage.energy);
        let books = self.books.entry(tenant.clone()).or_default();
        books.settle(now, at, (bound, energy));
        if let Some(usage) = usage {
            let tokens = f64::from(usage.prompt_tokens) + f64::from(usage.output_tokens);
            match self.entered.get_mut(&query) {
                Some(entered) => entered.reported += tokens,
                None => books.add_tokens(now, at, tokens),
            }
        }
        Some(Entry::Settled(Box::new(Settled {
            dispatch,
            query,
            tenant,
            expert: expert.clone(),
            reserved_at: at,
            at: now,
            bound,
            energy,
            usage,
        })))
    }

    /// Gives a reservation back whose work was never sent.
    pub(crate) fn release(&mut self, now: Wall, dispatch: DispatchId) -> Option<Entry> {
        let Reservation { tenant, bound, at } = self.open.remove(&dispatch)?;
        if let Some(books) = self.books.get_mut(&tenant) {
            books.settle(now, at, (bound, Joules::ZERO));
        }
        Some(Entry::Released {
            dispatch,
            tenant,
            bound,
        })
    }

    /// Queries of a tenant that entered and have not left.
    pub(crate) fn under_way(&self, tenant: &TenantId) -> u32 {
        self.books.get(tenant).map_or(0, Books::running)
    }

    /// The hard window of joules that leaves a tenant least, once `given_up` has given back what is reserved for it
    /// if it is this tenant's.
    pub(crate) fn binding(
        &self,
        now: Wall,
        tenant: &TenantId,
        given_up: Option<DispatchId>,
    ) -> Option<Binding> {
        let own = given_up.and_then(|dispatch| self.open.get(&dispatch));
        let own = own.filter(|r| r.tenant == *tenant);
        let own = own.map_or((Joules::ZERO, now), |r| (r.bound, r.at));
        self.books.get(tenant)?.binding(now, own)
    }

    /// How long until so many joules fit; nothing if they never do.
    pub(crate) fn fits_in(
        &self,
        now: Wall,
        tenant: &TenantId,
        amount: Joules,
    ) -> Option<std::time::Duration> {
        let books = self.books.get(tenant);
        books.map_or(Some(std::time::Duration::ZERO), |b| b.fits_in(now, amount))
    }

    /// What is left of a tenant's limits.
    pub(crate) fn room(&self, now: Wall, tenant: &TenantId) -> Room {
        let books = self.books.get(tenant);
        books.map_or_else(Room::default, |books| books.left(now))
    }

    /// What a tenant owes.
    pub(crate) fn account(&self, tenant: &TenantId) -> Account {
        self.books
            .get(tenant)
            .map_or_else(Account::default, |b| b.account)
    }

    /// Reservations still open.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests;
