"""First steps with Customer Accounts in Python. docs/CLIENTS.md says how to generate the code that it imports.

Usage: first_steps.py ADDRESS TENANT SERVICE_CONFIG
"""

import sys
import uuid

import grpc
from accounts.v1 import accounts_pb2, accounts_pb2_grpc, memberships_pb2, memberships_pb2_grpc
from accounts.v1 import organizations_pb2, organizations_pb2_grpc, people_pb2, people_pb2_grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from google.type.date_pb2 import Date
from grpc_status import rpc_status

# A service that asks for tokens wants ("authorization", "Bearer …") instead.
METADATA = ()


def reason(error):
    """The reason of an error, such as ETAG_MISMATCH; None if it does not come from the service."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == "accounts.v1":
            return info.reason
    return None


def change(call, request):
    """Sends a change, again if necessary. Because of its request_id the change is made once."""
    request.request_id = str(uuid.uuid4())
    again = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN)
    for attempt in range(3):
        try:
            return call(request, metadata=METADATA)
        except grpc.RpcError as error:
            if attempt == 2 or not (error.code() in again or reason(error) == "CONFLICT"):
                raise


def main(address, tenant, service_config):
    global METADATA
    METADATA = (("x-tenant-id", tenant),)
    with open(service_config, encoding="utf-8") as file:
        options = [("grpc.service_config", file.read())]
    with grpc.insecure_channel(address, options, compression=grpc.Compression.Gzip) as channel:
        organizations = organizations_pb2_grpc.OrganizationServiceStub(channel)
        accounts = accounts_pb2_grpc.AccountServiceStub(channel)
        people = people_pb2_grpc.PersonServiceStub(channel)
        memberships = memberships_pb2_grpc.MembershipServiceStub(channel)

        organization = organizations_pb2.Organization(display_name="Acme")
        request = organizations_pb2.CreateOrganizationRequest(organization=organization)
        organization = change(organizations.CreateOrganization, request).organization

        account = accounts_pb2.Account(display_name="Acme Corporation", organization_id=organization.organization_id)
        account.primary_contact.name = "Jane Doe"
        account.primary_contact.email = "purchasing@acme.example"
        account.billing_address.city = "Berlin"
        request = accounts_pb2.CreateAccountRequest(account=account)
        created = change(accounts.CreateAccount, request).account
        print("created", created.display_name)
        # The request has its request_id now: sent again, it gets the first answer and creates nothing.
        again = accounts.CreateAccount(request, metadata=METADATA).account
        print("repeated", "same" if again.account_id == created.account_id else "another")

        read = accounts.GetAccount(accounts_pb2.GetAccountRequest(account_id=created.account_id), metadata=METADATA).account
        print("read", read.billing_address.city)
        request = accounts_pb2.ListAccountsRequest(organization_id=organization.organization_id)
        print("listed", len(accounts.ListAccounts(request, metadata=METADATA).accounts))

        edited = accounts_pb2.Account(account_id=read.account_id, etag=read.etag)
        edited.billing_address.city = "Hamburg"
        request = accounts_pb2.UpdateAccountRequest(account=edited, update_mask=FieldMask(paths=["billing_address.city"]))
        print("updated", change(accounts.UpdateAccount, request).account.billing_address.city)
        try:
            change(accounts.UpdateAccount, request)  # its etag is no longer the current one
        except grpc.RpcError as error:
            print("refused", reason(error))

        person = people_pb2.Person(display_name="Jane Doe")
        person = change(people.CreatePerson, people_pb2.CreatePersonRequest(person=person)).person
        end = Date(year=2099, month=12, day=31)
        request = memberships_pb2.AddAccountUserRequest(
            account_id=created.account_id, person_id=person.person_id, end_date=end
        )
        print("member until", change(memberships.AddAccountUser, request).account_user.end_date.year)


main(*sys.argv[1:])
