# SPDX-License-Identifier: Apache-2.0
"""A generic gRPC client: it knows nothing of hearth.v1 but what hearthd's reflection service tells it.

Messages are made of dicts in proto3's JSON mapping, and read as real protobuf messages.
"""

import subprocess
import tempfile
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

# The protocol that every reflecting server speaks (grpc/reflection/v1alpha/reflection.proto), as far as it is needed.
REFLECTION = """
syntax = "proto3";
package grpc.reflection.v1alpha;
message ServerReflectionRequest {
  string host = 1;
  oneof message_request { string file_by_filename = 3; string file_containing_symbol = 4; string list_services = 7; }
}
message ServerReflectionResponse {
  string valid_host = 1;
  oneof message_response {
    FileDescriptorResponse file_descriptor_response = 4;
    ListServiceResponse list_services_response = 6;
    ErrorResponse error_response = 7;
  }
}
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServiceResponse { string name = 1; }
message ErrorResponse { int32 error_code = 1; string error_message = 2; }
"""


def _message_class(pool, name):
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(name))


def _reflection_classes():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "reflection.proto").write_text(REFLECTION)
        subprocess.run(["protoc", f"-I{folder}", f"--descriptor_set_out={folder}/set", "reflection.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString((path / "set").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return (_message_class(pool, "grpc.reflection.v1alpha.ServerReflectionRequest"),
            _message_class(pool, "grpc.reflection.v1alpha.ServerReflectionResponse"))


class Client:
    """One channel. Threads may share it once it is made."""

    def __init__(self, socket):
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=[
            ("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)])
        self._request, self._response = _reflection_classes()
        self.pool = descriptor_pool.DescriptorPool()
        self._files = set()
        self.services = [service.name for service in self._ask(list_services="*").list_services_response.service]
        for service in self.services:
            self._add(self._ask(file_containing_symbol=service))
        self._factory = message_factory.MessageFactory(self.pool)
        self._classes = {}

    def close(self):
        self.channel.close()

    def _ask(self, **question):
        call = self.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=self._request.SerializeToString, response_deserializer=self._response.FromString)
        answer = next(call(iter([self._request(**question)]), timeout=30))
        if answer.HasField("error_response"):
            raise LookupError(f"{question}: {answer.error_response.error_message}")
        return answer

    def _add(self, answer):
        files = {}
        for encoded in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
            files[file.name] = file
        for name in files:
            self._add_file(name, files)

    def _add_file(self, name, files):
        """With what it imports first, which a server may or may not have sent along."""
        if name in self._files:
            return
        self._files.add(name)
        if name not in files:
            answer = self._ask(file_by_filename=name)
            for encoded in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
                files[file.name] = file
        for imported in files[name].dependency:
            self._add_file(imported, files)
        self.pool.Add(files[name])

    def message(self, descriptor, value):
        cls = self._class(descriptor)
        return value if isinstance(value, cls) else json_format.ParseDict(value, cls(), descriptor_pool=self.pool)

    def _class(self, descriptor):
        name = descriptor.full_name
        if name not in self._classes:
            self._classes[name] = self._factory.GetPrototype(descriptor)
        return self._classes[name]

    def json(self, message):
        return json_format.MessageToDict(message, descriptor_pool=self.pool, including_default_value_fields=True)

    def call(self, method, request, timeout=120):
        """`method` is "hearth.v1.InvocationService/Invoke". A list as request is a stream; the answer is then a call."""
        service, name = method.split("/")
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(name)
        arguments = {"request_serializer": lambda message: message.SerializeToString(),
                     "response_deserializer": self._class(descriptor.output_type).FromString}
        make = lambda value: self.message(descriptor.input_type, value)
        if isinstance(request, dict):
            stub = self.channel.unary_unary if name not in ("TailLogs",) else self.channel.unary_stream
            return stub(f"/{method}", **arguments)(make(request), timeout=timeout)
        stub = self.channel.stream_unary if name == "UploadArtifact" else self.channel.stream_stream
        return stub(f"/{method}", **arguments)(map(make, request), timeout=timeout)

    def _find(self, name):
        """A message type; one that no service names is asked for."""
        try:
            return self.pool.FindMessageTypeByName(name)
        except KeyError:
            self._add(self._ask(file_containing_symbol=name))
            return self.pool.FindMessageTypeByName(name)

    def details(self, error):
        """The google.rpc details of a grpc.RpcError: {"ErrorInfo": {...}, ...}."""
        found = {}
        for key, value in error.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            status = self._class(self.pool.FindMessageTypeByName("google.rpc.Status")).FromString(value)
            for detail in status.details:
                name = detail.type_url.rsplit("/", 1)[-1]
                cls = self._class(self._find(name))
                found[name.rsplit(".", 1)[-1]] = self.json(cls.FromString(detail.value))
        return found
