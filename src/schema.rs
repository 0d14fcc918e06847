// Generated from the migrations: `UPDATE_SCHEMA=1 cargo test schema` writes it anew, the same test fails when it differs.

diesel::table! {
    account_organizations (tenant_id, account_id, organization_id) {
        tenant_id -> Text,
        account_id -> Text,
        organization_id -> Text,
        own -> Bool,
        include_descendants -> Bool,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    account_types (tenant_id, account_type_id) {
        tenant_id -> Text,
        account_type_id -> Text,
        display_name -> Text,
        name_key -> Text,
        description -> Text,
        is_default -> Bool,
        active -> Bool,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    account_users (tenant_id, account_id, person_id) {
        tenant_id -> Text,
        account_id -> Text,
        person_id -> Text,
        individual -> Bool,
        roles -> Array<Text>,
        billing -> Bool,
        start_date -> Nullable<Date>,
        end_date -> Nullable<Date>,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        sort_key -> Text,
        person_create_time -> Timestamptz,
    }
}

diesel::table! {
    account_words (tenant_id, account_id, word) {
        tenant_id -> Text,
        account_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    accounts (tenant_id, account_id) {
        tenant_id -> Text,
        account_id -> Text,
        display_name -> Text,
        sort_key -> Text,
        description -> Text,
        organization_id -> Text,
        account_type_id -> Nullable<Text>,
        status -> Text,
        status_reason -> Text,
        primary_contact -> Nullable<Jsonb>,
        billing_address -> Nullable<Jsonb>,
        shipping_address -> Nullable<Jsonb>,
        postal_address -> Nullable<Jsonb>,
        official_address -> Nullable<Jsonb>,
        billing_details -> Text,
        preferences -> Nullable<Jsonb>,
        is_primary -> Bool,
        comment -> Text,
        metadata -> Jsonb,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        account_manager_id -> Nullable<Text>,
        primary_contact_id -> Nullable<Text>,
        billing_contact_id -> Nullable<Text>,
        cc_billing_contact_id -> Nullable<Text>,
        incarnation -> Text,
        folded -> Int8,
        tax_id -> Text,
    }
}

diesel::table! {
    activities (tenant_id, activity_id) {
        tenant_id -> Text,
        activity_id -> Text,
        transaction_id -> Int8,
        ordinal -> Int4,
        create_time -> Timestamptz,
        actor -> Text,
        method -> Text,
        request_id -> Nullable<Text>,
        action -> Text,
        resource_type -> Text,
        resource_id -> Text,
        account_id -> Nullable<Text>,
        changes -> Jsonb,
        incarnation -> Nullable<Text>,
    }
}

diesel::table! {
    contract_words (tenant_id, contract_id, word) {
        tenant_id -> Text,
        contract_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    contracts (tenant_id, contract_id) {
        tenant_id -> Text,
        contract_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        title -> Text,
        sort_key -> Text,
        reference -> Text,
        description -> Text,
        document_uri -> Text,
        metadata -> Jsonb,
        stage -> Text,
        start_date -> Nullable<Date>,
        end_date -> Nullable<Date>,
        renewal_months -> Nullable<Int4>,
        notice_days -> Int4,
        value_amount -> Nullable<Numeric>,
        value_currency -> Nullable<Text>,
        cancel_time -> Nullable<Timestamptz>,
        last_date -> Nullable<Date>,
        state_reason -> Text,
        submit_time -> Nullable<Timestamptz>,
        submitter -> Nullable<Text>,
        approve_time -> Nullable<Timestamptz>,
        approver -> Nullable<Text>,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        folded -> Int8,
    }
}

diesel::table! {
    delivery_setups (tenant_id, delivery_setup_id) {
        tenant_id -> Text,
        delivery_setup_id -> Text,
        contract_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        project_id -> Text,
        delivery_model -> Text,
        description -> Text,
        state -> Text,
        state_reason -> Text,
        start_date -> Nullable<Date>,
        end_date -> Nullable<Date>,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    module_activations (tenant_id, organization_id, module) {
        tenant_id -> Text,
        organization_id -> Text,
        module -> Text,
        activation_id -> Text,
        active -> Bool,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    opportunities (tenant_id, opportunity_id) {
        tenant_id -> Text,
        opportunity_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        display_name -> Text,
        sort_key -> Text,
        stage -> Text,
        state -> Text,
        amount -> Nullable<Numeric>,
        currency_code -> Nullable<Text>,
        probability -> Nullable<Float8>,
        expected_close_date -> Nullable<Date>,
        close_date -> Nullable<Date>,
        uri -> Text,
        contract_id -> Nullable<Text>,
        owner_id -> Nullable<Text>,
        source_time -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        folded -> Int8,
    }
}

diesel::table! {
    opportunity_words (tenant_id, opportunity_id, word) {
        tenant_id -> Text,
        opportunity_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    orders (tenant_id, order_id) {
        tenant_id -> Text,
        order_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        purchaser_id -> Nullable<Text>,
        has_purchaser -> Bool,
        amount -> Numeric,
        currency_code -> Text,
        order_time -> Timestamptz,
        description -> Text,
        contract_id -> Nullable<Text>,
        state -> Text,
        cancel_time -> Nullable<Timestamptz>,
        cancel_reason -> Text,
        metadata -> Jsonb,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    organization_ancestors (tenant_id, organization_id, ancestor_id) {
        tenant_id -> Text,
        organization_id -> Text,
        ancestor_id -> Text,
        distance -> Int4,
    }
}

diesel::table! {
    organization_members (tenant_id, organization_id, person_id) {
        tenant_id -> Text,
        organization_id -> Text,
        person_id -> Text,
        create_time -> Timestamptz,
        sort_key -> Text,
        person_create_time -> Timestamptz,
    }
}

diesel::table! {
    organization_words (tenant_id, organization_id, word) {
        tenant_id -> Text,
        organization_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    organizations (tenant_id, organization_id) {
        tenant_id -> Text,
        organization_id -> Text,
        display_name -> Text,
        sort_key -> Text,
        parent_id -> Nullable<Text>,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        incarnation -> Text,
        folded -> Int8,
        metadata -> Jsonb,
    }
}

diesel::table! {
    people (tenant_id, person_id) {
        tenant_id -> Text,
        person_id -> Text,
        display_name -> Text,
        sort_key -> Text,
        email -> Text,
        phone -> Text,
        kind -> Text,
        subject -> Nullable<Text>,
        active -> Bool,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        purchasing_account_id -> Nullable<Text>,
        folded -> Int8,
    }
}

diesel::table! {
    person_words (tenant_id, person_id, word) {
        tenant_id -> Text,
        person_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    portfolio_items (tenant_id, portfolio_id, code) {
        tenant_id -> Text,
        portfolio_id -> Text,
        code -> Text,
        code_key -> Text,
        ordinal -> Int4,
        display_name -> Text,
        description -> Text,
        state -> Text,
    }
}

diesel::table! {
    portfolio_words (tenant_id, portfolio_id, word) {
        tenant_id -> Text,
        portfolio_id -> Text,
        word -> Text,
    }
}

diesel::table! {
    portfolios (tenant_id, portfolio_id) {
        tenant_id -> Text,
        portfolio_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        display_name -> Text,
        sort_key -> Text,
        description -> Text,
        item_count -> Int4,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        folded -> Int8,
    }
}

diesel::table! {
    renewals (folding) {
        folding -> Int8,
        complete_time -> Timestamptz,
    }
}

diesel::table! {
    requests (tenant_id, actor, request_id) {
        tenant_id -> Text,
        request_id -> Text,
        fingerprint -> Bytea,
        response -> Nullable<Bytea>,
        create_time -> Timestamptz,
        actor -> Text,
    }
}

diesel::table! {
    subscriptions (tenant_id, subscription_id) {
        tenant_id -> Text,
        subscription_id -> Text,
        account_id -> Text,
        incarnation -> Text,
        display_name -> Text,
        product_code -> Text,
        unit_amount -> Numeric,
        currency_code -> Text,
        quantity -> Int8,
        interval_unit -> Text,
        interval_count -> Int4,
        start_time -> Timestamptz,
        trial_end_time -> Nullable<Timestamptz>,
        stated_end_time -> Nullable<Timestamptz>,
        discount -> Int4,
        paused -> Bool,
        contract_id -> Nullable<Text>,
        source_time -> Nullable<Timestamptz>,
        cancel_end_time -> Nullable<Timestamptz>,
        cancel_time -> Nullable<Timestamptz>,
        cancel_reason -> Text,
        end_time -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        revision -> Int8,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    tenants (tenant_id) {
        tenant_id -> Text,
        create_time -> Timestamptz,
        account_id_prefix -> Text,
        default_currency -> Nullable<Text>,
        membership_roles -> Array<Text>,
        activity_retention_days -> Nullable<Int4>,
        modules_off -> Array<Text>,
        modules_off_below -> Array<Text>,
        revision -> Int8,
        update_time -> Nullable<Timestamptz>,
        activity_floor -> Int8,
        time_zone -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    account_organizations,
    account_types,
    account_users,
    account_words,
    accounts,
    activities,
    contract_words,
    contracts,
    delivery_setups,
    module_activations,
    opportunities,
    opportunity_words,
    orders,
    organization_ancestors,
    organization_members,
    organization_words,
    organizations,
    people,
    person_words,
    portfolio_items,
    portfolio_words,
    portfolios,
    renewals,
    requests,
    subscriptions,
    tenants,
);
