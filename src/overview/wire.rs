//! Converts an overview to its message, without the parts whose module is off.

use super::store::{Count, Figures, Overview};
use crate::{
    commerce::recurring,
    proto::{AccountCounts, AccountKpis, GetAccountOverviewResponse},
    wire::timestamp,
};

/// The modules that an overview has parts of, in alphabetical order.
const PARTS: [&str; 3] = ["commerce", "contracts", "portfolios"];

impl From<Overview> for GetAccountOverviewResponse {
    fn from(overview: Overview) -> Self {
        let Overview { account, organization, account_type, manager, off, figures } = overview;
        let is_off = |module| off.contains(&module);
        let figures =
            figures.without(is_off("commerce"), is_off("contracts"), is_off("portfolios"));
        let Figures { contracts, delivery_setups, opportunities, subscriptions, .. } = figures;
        Self {
            account: Some(account.into()),
            organization: Some(organization.into()),
            account_type: account_type.map(Into::into),
            account_manager: manager.map(Into::into),
            kpis: Some(AccountKpis {
                user_count: figures.users,
                order_count: figures.orders,
                recurring_revenue: recurring(figures.revenue),
                calculate_time: Some(timestamp(figures.time)),
            }),
            counts: Some(AccountCounts {
                contracts: contracts.all,
                delivery_setups: delivery_setups.all,
                portfolios: figures.portfolios,
                opportunities: opportunities.all,
                subscriptions: subscriptions.all,
                contracts_in_force: contracts.in_force,
                delivery_setups_active: delivery_setups.in_force,
                opportunities_open: opportunities.in_force,
                subscriptions_in_force: subscriptions.in_force,
            }),
            modules_off: PARTS
                .into_iter()
                .filter(|module| is_off(module))
                .map(ToOwned::to_owned)
                .collect(),
        }
    }
}

impl Figures {
    /// The figures without those of modules that are off.
    fn without(mut self, commerce: bool, contracts: bool, portfolios: bool) -> Self {
        if commerce {
            (self.orders, self.revenue) = (0, Vec::new());
            self.subscriptions = Count::default();
        }
        if contracts {
            (self.contracts, self.delivery_setups) = (Count::default(), Count::default());
        }
        if portfolios {
            self.portfolios = 0;
        }
        self
    }
}
