//! People: the customers' people and the tenant's own staff.

pub(crate) mod refusals;
pub mod sources;
pub mod store;
mod wire;

use tonic::Request;

use self::store::{Filter, NewPerson, Person};
use crate::{
    batch::Ids,
    call::{Call as _, Reply, reply},
    change::{self, ById},
    db::Db,
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
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl PersonService for Service {
    async fn create_person(
        &self,
        request: Request<CreatePersonRequest>,
    ) -> Reply<CreatePersonResponse> {
        let (caller, meta, new) = request.change(NewPerson::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreatePersonResponse { person: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_person(&self, request: Request<GetPersonRequest>) -> Reply<GetPersonResponse> {
        let (caller, id) = request.read(change::id)?;
        let person = self.db.read(&caller, async |tx| Person::find(tx, &id).await).await?;
        reply(Ok(GetPersonResponse { person: Some(person.into()) }))
    }

    async fn batch_get_people(
        &self,
        request: Request<BatchGetPeopleRequest>,
    ) -> Reply<BatchGetPeopleResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| Person::find_all(tx, &ids).await).await?;
        let people = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetPeopleResponse { people }))
    }

    async fn list_people(&self, request: Request<ListPeopleRequest>) -> Reply<ListPeopleResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Person::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListPeopleResponse { people }, listing)))
    }

    async fn update_person(
        &self,
        request: Request<UpdatePersonRequest>,
    ) -> Reply<UpdatePersonResponse> {
        let (caller, meta, update) = request.update(wire::ELSEWHERE)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = Person::find_for_update(tx, update.id()).await?;
            let fields = update.fields(&current)?;
            Ok(UpdatePersonResponse { person: Some(current.update(tx, &fields).await?.into()) })
        });
        reply(work.await)
    }

    async fn delete_person(
        &self,
        request: Request<DeletePersonRequest>,
    ) -> Reply<DeletePersonResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Person::find_for_update(tx, id)).await?;
            current.delete(tx).await?;
            Ok(DeletePersonResponse {})
        });
        reply(work.await)
    }
}
