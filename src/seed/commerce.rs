//! The contracts of the example and what else belongs to accounts. Accounts that were there before
//! this run get none.

use chrono::{Days, Months, NaiveDate, Utc};
use tonic::Status;

use super::{
    Authorized, Run, as_seed,
    example::{
        CONTRACTS, ExampleContract, ExampleSubscription, ITEMS, MANAGER, OPPORTUNITIES, ORDERS,
        PORTFOLIO, SETUP, SUBSCRIPTIONS, Stage,
    },
    of,
};
use crate::{
    proto::{
        ApproveContractRequest, Contract, CreateContractRequest, CreateDeliverySetupRequest,
        CreatePortfolioRequest, DeliverySetup, DeliverySetupState, GetContractRequest,
        GetDeliverySetupRequest, GetOpportunityRequest, GetOrderRequest, GetPortfolioRequest,
        GetSubscriptionRequest, Opportunity, OpportunityState, Order, Portfolio, PortfolioItem,
        PutOpportunityRequest, PutSubscriptionRequest, RecordOrderRequest, SubmitContractRequest,
        Subscription, commerce_service_client::CommerceServiceClient,
        contract_service_client::ContractServiceClient, google::r#type::Money,
        opportunity_service_client::OpportunityServiceClient,
        portfolio_service_client::PortfolioServiceClient,
    },
    wire::{timestamp, to_date},
};

impl Run {
    pub(super) async fn contracts(
        &mut self,
        contracts: &mut ContractServiceClient<Authorized>,
    ) -> Result<(), Status> {
        let today = Utc::now().date_naive();
        for example in CONTRACTS {
            let ExampleContract { id, account, .. } = example;
            let get = as_seed(GetContractRequest { contract_id: id.into() });
            let found = contracts.get_contract(get).await;
            if !self.belongs_to_new(account, id, found)? {
                continue;
            }
            create(contracts, &example, today).await.map_err(|status| of(id, &status))?;
        }
        let ((id, project, model), contract) = (SETUP, CONTRACTS[0].id);
        let get = as_seed(GetDeliverySetupRequest { delivery_setup_id: id.into() });
        let found = contracts.get_delivery_setup(get).await;
        if !self.belongs_to_new(contract, id, found)? {
            return Ok(());
        }
        let setup = DeliverySetup {
            delivery_setup_id: id.into(),
            contract_id: contract.into(),
            project_id: project.into(),
            delivery_model: model.into(),
            state: DeliverySetupState::Active.into(),
            ..Default::default()
        };
        let request =
            CreateDeliverySetupRequest { delivery_setup: Some(setup), ..Default::default() };
        let created = contracts.create_delivery_setup(as_seed(request)).await;
        created.map(drop).map_err(|status| of(id, &status))
    }

    pub(super) async fn portfolios(
        &mut self,
        portfolios: &mut PortfolioServiceClient<Authorized>,
    ) -> Result<(), Status> {
        let (id, account, name) = PORTFOLIO;
        let get = as_seed(GetPortfolioRequest { portfolio_id: id.into() });
        let found = portfolios.get_portfolio(get).await;
        if !self.belongs_to_new(account, id, found)? {
            return Ok(());
        }
        let item = |(code, name, state): &(&str, &str, _)| PortfolioItem {
            code: (*code).into(),
            display_name: (*name).into(),
            state: i32::from(*state),
            ..Default::default()
        };
        let portfolio = Portfolio {
            portfolio_id: id.into(),
            account_id: account.into(),
            display_name: name.into(),
            items: ITEMS.iter().map(item).collect(),
            ..Default::default()
        };
        let request = CreatePortfolioRequest { portfolio: Some(portfolio), ..Default::default() };
        let created = portfolios.create_portfolio(as_seed(request)).await;
        created.map(drop).map_err(|status| of(id, &status))
    }

    pub(super) async fn opportunities(
        &mut self,
        opportunities: &mut OpportunityServiceClient<Authorized>,
    ) -> Result<(), Status> {
        for (id, account, name, stage, euros, probability) in OPPORTUNITIES {
            let get = as_seed(GetOpportunityRequest { opportunity_id: id.into() });
            let found = opportunities.get_opportunity(get).await;
            if !self.belongs_to_new(account, id, found)? {
                continue;
            }
            let owned = self.created.contains(MANAGER);
            let opportunity = Opportunity {
                opportunity_id: id.into(),
                account_id: account.into(),
                display_name: name.into(),
                stage: stage.into(),
                state: OpportunityState::Open.into(),
                amount: Some(in_euros(euros)),
                probability: Some(probability),
                owner_id: if owned { MANAGER.into() } else { String::new() },
                ..Default::default()
            };
            let request =
                PutOpportunityRequest { opportunity: Some(opportunity), ..Default::default() };
            let put = opportunities.put_opportunity(as_seed(request)).await;
            put.map_err(|status| of(id, &status))?;
        }
        Ok(())
    }

    pub(super) async fn subscriptions(
        &mut self,
        commerce: &mut CommerceServiceClient<Authorized>,
    ) -> Result<(), Status> {
        let now = Utc::now();
        for ExampleSubscription {
            id,
            account,
            name,
            code,
            price,
            discount_percent,
            trial_ends_in,
        } in SUBSCRIPTIONS
        {
            let get = as_seed(GetSubscriptionRequest { subscription_id: id.into() });
            let found = commerce.get_subscription(get).await;
            if !self.belongs_to_new(account, id, found)? {
                continue;
            }
            let (units, currency, quantity, interval) = price;
            let subscription = Subscription {
                subscription_id: id.into(),
                account_id: account.into(),
                display_name: name.into(),
                product_code: code.into(),
                unit_amount: Some(Money { currency_code: currency.into(), units, nanos: 0 }),
                quantity: Some(quantity),
                interval: interval.into(),
                start_time: Some(timestamp(now)),
                trial_end_time: trial_ends_in.map(|days| timestamp(now + Days::new(days))),
                discount_percent,
                ..Default::default()
            };
            let request =
                PutSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
            let put = commerce.put_subscription(as_seed(request)).await;
            put.map_err(|status| of(id, &status))?;
        }
        Ok(())
    }

    /// The orders are of the past, so nobody's right to buy is asked for.
    pub(super) async fn orders(
        &mut self,
        commerce: &mut CommerceServiceClient<Authorized>,
    ) -> Result<(), Status> {
        for (id, account, description, euros) in ORDERS {
            let get = as_seed(GetOrderRequest { order_id: id.into() });
            let found = commerce.get_order(get).await;
            if !self.belongs_to_new(account, id, found)? {
                continue;
            }
            let order = Order {
                order_id: id.into(),
                account_id: account.into(),
                amount: Some(in_euros(euros)),
                description: description.into(),
                ..Default::default()
            };
            let request = RecordOrderRequest {
                order: Some(order),
                purchaser_checked: true,
                ..Default::default()
            };
            let recorded = commerce.record_order(as_seed(request)).await;
            recorded.map_err(|status| of(id, &status))?;
        }
        Ok(())
    }

    /// Whether a resource must be created: it is missing, and this run has created what it belongs
    /// to.
    fn belongs_to_new<T>(
        &mut self,
        owner: &'static str,
        id: &'static str,
        answer: Result<T, Status>,
    ) -> Result<bool, Status> {
        let missing = self.is_missing(id, answer)?;
        if missing && !self.created.contains(owner) {
            self.created.remove(id);
            return Ok(false);
        }
        Ok(missing)
    }
}

/// Creates a contract and takes it as far as the example has it.
async fn create(
    contracts: &mut ContractServiceClient<Authorized>,
    example: &ExampleContract,
    today: NaiveDate,
) -> Result<(), Status> {
    let ExampleContract { id, account, title, euros, ends_in, renews, ref stage } = *example;
    let end = today + Days::new(ends_in);
    let contract = Contract {
        contract_id: id.into(),
        account_id: account.into(),
        title: title.into(),
        start_date: Some(to_date(end + Days::new(1) - Months::new(12))),
        end_date: Some(to_date(end)),
        value: Some(in_euros(euros)),
        auto_renewal: renews,
        notice_days: if renews { 30 } else { 0 },
        ..Default::default()
    };
    let request = CreateContractRequest { contract: Some(contract), ..Default::default() };
    contracts.create_contract(as_seed(request)).await?;
    if *stage == Stage::Draft {
        return Ok(());
    }
    let submit = SubmitContractRequest { contract_id: id.into(), ..Default::default() };
    contracts.submit_contract(as_seed(submit)).await?;
    if *stage == Stage::InApproval {
        return Ok(());
    }
    let approve = ApproveContractRequest { contract_id: id.into(), ..Default::default() };
    contracts.approve_contract(as_seed(approve)).await?;
    Ok(())
}

fn in_euros(units: i64) -> Money {
    Money { currency_code: "EUR".into(), units, nanos: 0 }
}
