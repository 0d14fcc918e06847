//! People: those of the customers, and the tenant's own staff.

pub(crate) mod refusals;
pub mod store;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    store::{Filter, NewPerson, Person},
    wire::{Deletion, Update},
};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta},
    page::response,
    proto::{
        BatchGetPeopleRequest, BatchGetPeopleResponse, CreatePersonRequest, CreatePersonResponse,
        DeletePersonRequest, DeletePersonResponse, GetPersonRequest, GetPersonResponse,
        ListPeopleRequest, ListPeopleResponse, UpdatePersonRequest, UpdatePersonResponse,
        person_service_server::PersonService,
    },
};

/// The calls of `accounts.v1.PersonService`.
#[derive(Debug)]
pub struct Service {
    /// Where the people are.
    pub db: Db,
}

#[tonic::async_trait]
impl PersonService for Service {
    async fn create_person(
        &self,
        mut request: Request<CreatePersonRequest>,
    ) -> Result<Response<CreatePersonResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let new = NewPerson::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Ok(CreatePersonResponse { person: Some(new.insert(tx).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get_person(
        &self,
        mut request: Request<GetPersonRequest>,
    ) -> Result<Response<GetPersonResponse>, Status> {
        let caller = request.caller()?;
        let id = wire::id(request.into_inner())?;
        let person = self.db.read(&caller, async |tx| Person::find(tx, &id).await).await?;
        Ok(Response::new(GetPersonResponse { person: Some(person.into()) }))
    }

    async fn batch_get_people(
        &self,
        mut request: Request<BatchGetPeopleRequest>,
    ) -> Result<Response<BatchGetPeopleResponse>, Status> {
        let caller = request.caller()?;
        let ids = wire::ids(request.into_inner())?;
        let found = self.db.read(&caller, async |tx| Person::find_all(tx, &ids).await).await?;
        Ok(Response::new(BatchGetPeopleResponse {
            people: found.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_people(
        &self,
        mut request: Request<ListPeopleRequest>,
    ) -> Result<Response<ListPeopleResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = Filter::parse(&caller, request.into_inner())?;
        let listing =
            self.db.list(&caller, async |tx| Person::list(tx, &filter, &page).await).await?;
        Ok(Response::new(response!(ListPeopleResponse { people }, listing)))
    }

    async fn update_person(
        &self,
        mut request: Request<UpdatePersonRequest>,
    ) -> Result<Response<UpdatePersonResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Person::find_for_update(tx, &update.id).await?;
                let fields = update.apply(&current)?;
                Ok(UpdatePersonResponse { person: Some(current.update(tx, &fields).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn delete_person(
        &self,
        mut request: Request<DeletePersonRequest>,
    ) -> Result<Response<DeletePersonResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let deletion = Deletion::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Person::find_for_update(tx, &deletion.id).await?;
                deletion.check(&current)?;
                current.delete(tx).await?;
                Ok(DeletePersonResponse {})
            })
            .await?;
        Ok(Response::new(response))
    }
}
