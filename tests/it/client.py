"""A client that knows only an address: it learns the contract by reflection, without generated code.

Usage: client.py ADDRESS TENANT COMPRESSION, where the last is one of grpc.Compression. Creates an organization and an account, then makes a call that must fail, and prints as
JSON what it got. tests/it/clients.rs says what that must be.
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT = 20  # seconds, for each call


class Client:
    def __init__(self, channel, metadata):
        self.channel = channel
        self.metadata = metadata
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def call(self, service, method, request):
        """Makes a call; request and answer are as in JSON, with the field names of the contract."""
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        send = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        message = ParseDict(request, GetMessageClass(described.input_type)(), descriptor_pool=self.pool)
        answer = send(message, metadata=self.metadata, timeout=TIMEOUT)
        return MessageToDict(answer, preserving_proto_field_name=True, descriptor_pool=self.pool)

    def details(self, error):
        """The details of an error by their type, from the trailing metadata."""
        trailer = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = self.message("google.rpc.Status").FromString(trailer)
        assert (status.code, status.message) == (error.code().value[0], error.details())
        details = {}
        for packed in status.details:
            kind = packed.type_url.rpartition("/")[2]
            detail = self.message(kind).FromString(packed.value)
            details[kind] = MessageToDict(detail, preserving_proto_field_name=True, descriptor_pool=self.pool)
        return details

    def message(self, name):
        return GetMessageClass(self.pool.FindMessageTypeByName(name))


def main(address, tenant, compression):
    with grpc.insecure_channel(address, compression=grpc.Compression[compression]) as channel:
        client = Client(channel, (("x-tenant-id", tenant),))
        organization = {"organization_id": "acme", "display_name": "Acme"}
        client.call("accounts.v1.OrganizationService", "CreateOrganization", {"organization": organization})
        account = {
            "display_name": "Zoë's account",
            "organization_id": "acme",
            "primary_contact": {"name": "Zoë", "email": "zoe@example.com"},
            "preferences": {"language": "de", "copies": 2, "channels": ["email"]},
            "metadata": {"erp": "4711"},
        }
        created = client.call("accounts.v1.AccountService", "CreateAccount", {"account": account})["account"]
        read = client.call("accounts.v1.AccountService", "GetAccount", {"account_id": created["account_id"]})["account"]
        assert read == created, (read, created)
        wrong = {"account_id": "x" * 51, "display_name": " ", "metadata": {"bad key": ""}}
        try:
            client.call("accounts.v1.AccountService", "CreateAccount", {"account": wrong})
        except grpc.RpcError as error:
            refused = {"code": error.code().name, "details": client.details(error)}
        else:
            sys.exit("an account with mistakes was created")
        json.dump({"created": created, "refused": refused}, sys.stdout)


main(*sys.argv[1:])
