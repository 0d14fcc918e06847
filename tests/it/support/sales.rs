//! The calls on portfolios and opportunities that several tests make.

use customer_accounts::proto::{
    CreatePortfolioRequest, GetOpportunityRequest, GetPortfolioRequest, ListOpportunitiesRequest,
    ListPortfoliosRequest, Opportunity, Portfolio, PortfolioItem, PortfolioItemState,
    PutOpportunityRequest, PutOpportunityResponse, UpdatePortfolioRequest, google::r#type::Money,
};
use tonic::Status;

use super::{Tenant, calls::mask};

/// The least that a portfolio needs.
pub fn portfolio(id: &str, account_id: &str) -> Portfolio {
    Portfolio {
        portfolio_id: id.into(),
        account_id: account_id.into(),
        display_name: id.into(),
        ..Default::default()
    }
}

/// An item in this state, with its code as the name.
pub fn item(code: &str, state: PortfolioItemState) -> PortfolioItem {
    PortfolioItem {
        code: code.into(),
        display_name: code.into(),
        state: state.into(),
        ..Default::default()
    }
}

/// The least that an opportunity needs.
pub fn opportunity(id: &str, account_id: &str) -> Opportunity {
    Opportunity {
        opportunity_id: id.into(),
        account_id: account_id.into(),
        display_name: id.into(),
        ..Default::default()
    }
}

/// So many units and billionths of a currency.
pub fn money(units: i64, nanos: i32, currency_code: &str) -> Money {
    Money { currency_code: currency_code.into(), units, nanos }
}

impl Tenant {
    pub async fn try_portfolio(&self, portfolio: Portfolio) -> Result<Portfolio, Status> {
        let request = CreatePortfolioRequest { portfolio: Some(portfolio), ..Default::default() };
        let response = self.portfolios().create_portfolio(request).await;
        response.map(|response| response.into_inner().portfolio.unwrap())
    }

    pub async fn portfolio(&self, portfolio: Portfolio) -> Portfolio {
        self.try_portfolio(portfolio).await.unwrap()
    }

    pub async fn get_portfolio(&self, id: &str) -> Result<Portfolio, Status> {
        let request = GetPortfolioRequest { portfolio_id: id.into() };
        let response = self.portfolios().get_portfolio(request).await;
        response.map(|response| response.into_inner().portfolio.unwrap())
    }

    /// Updates the fields at `paths`; without any, the populated ones.
    pub async fn update_portfolio(
        &self,
        portfolio: Portfolio,
        paths: &[&str],
    ) -> Result<Portfolio, Status> {
        let request = UpdatePortfolioRequest {
            portfolio: Some(portfolio),
            update_mask: mask(paths),
            ..Default::default()
        };
        let response = self.portfolios().update_portfolio(request).await;
        response.map(|response| response.into_inner().portfolio.unwrap())
    }

    /// The ids of the portfolios that a request lists on its first page.
    pub async fn portfolios_of(&self, request: ListPortfoliosRequest) -> Vec<String> {
        let answer = self.portfolios().list_portfolios(request).await.unwrap().into_inner();
        answer.portfolios.into_iter().map(|portfolio| portfolio.portfolio_id).collect()
    }

    pub async fn push(&self, opportunity: Opportunity) -> Result<PutOpportunityResponse, Status> {
        let request =
            PutOpportunityRequest { opportunity: Some(opportunity), ..Default::default() };
        self.opportunities().put_opportunity(request).await.map(tonic::Response::into_inner)
    }

    /// Puts an opportunity, and returns it as it is then.
    pub async fn opportunity(&self, opportunity: Opportunity) -> Opportunity {
        self.push(opportunity).await.unwrap().opportunity.unwrap()
    }

    pub async fn get_opportunity(&self, id: &str) -> Result<Opportunity, Status> {
        let request = GetOpportunityRequest { opportunity_id: id.into() };
        let response = self.opportunities().get_opportunity(request).await;
        response.map(|response| response.into_inner().opportunity.unwrap())
    }

    /// The ids of the opportunities that a request lists on its first page.
    pub async fn opportunities_of(&self, request: ListOpportunitiesRequest) -> Vec<String> {
        let answer = self.opportunities().list_opportunities(request).await.unwrap().into_inner();
        answer.opportunities.into_iter().map(|opportunity| opportunity.opportunity_id).collect()
    }
}
