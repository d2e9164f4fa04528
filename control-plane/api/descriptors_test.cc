// SPDX-License-Identifier: Apache-2.0
// Rules that the public API's descriptors must keep.
#include <google/protobuf/descriptor.h>

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "google/api/field_behavior.pb.h"
#include "google/api/resource.pb.h"
#include "google/longrunning/operations.pb.h"
#include "hearth/v1/annotations.pb.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {
namespace {

std::vector<const google::protobuf::FileDescriptor*> Files() {
  return {hearth::v1::MethodPermission::descriptor()->file(),
          hearth::v1::Tenant::descriptor()->file(),
          hearth::v1::InvokeRequest::descriptor()->file()};
}

std::vector<const google::protobuf::MethodDescriptor*> Methods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const auto* file : Files()) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.push_back(file->service(s)->method(m));
      }
    }
  }
  return methods;
}

void CheckMessage(const google::protobuf::Descriptor* message) {
  if (message->options().map_entry()) return;
  for (int i = 0; i < message->field_count(); ++i) {
    const auto* field = message->field(i);
    INFO(field->full_name());
    CHECK(field->options().ExtensionSize(google::api::field_behavior) > 0);
  }
  for (int i = 0; i < message->enum_type_count(); ++i) {
    INFO(message->enum_type(i)->full_name());
    const std::string zero = message->enum_type(i)->FindValueByNumber(0)->name();
    CHECK(zero.find("_UNSPECIFIED") != std::string::npos);
  }
  for (int i = 0; i < message->nested_type_count(); ++i) CheckMessage(message->nested_type(i));
}

}  // namespace

TEST_CASE("hearth.v1: every field states its behaviour, every enum's zero is unspecified") {
  for (const auto* file : Files()) {
    for (int i = 0; i < file->message_type_count(); ++i) CheckMessage(file->message_type(i));
  }
}

TEST_CASE(
    "hearth.v1: every method that is served names a permission of the form hearth.resource.verb") {
  std::map<std::string, std::string> permissions;
  for (const auto* method : Methods()) {
    permissions[method->full_name()] = method->options().GetExtension(hearth::v1::permission);
  }
  const auto* operations = google::longrunning::Operation::descriptor()->file()->service(0);
  for (int m = 0; m < operations->method_count(); ++m) {
    permissions[operations->method(m)->full_name()] = "";
  }
  const auto& options = hearth::v1::InvokeRequest::descriptor()->file()->options();
  for (int i = 0; i < options.ExtensionSize(hearth::v1::other_permission); ++i) {
    const auto& other = options.GetExtension(hearth::v1::other_permission, i);
    INFO(other.method());
    REQUIRE(permissions.count(other.method()) == 1);
    CHECK(permissions[other.method()].empty());
    permissions[other.method()] = other.permission();
  }
  for (const auto& [method, permission] : permissions) {
    INFO(method);
    CHECK(permission.rfind("hearth.", 0) == 0);
    CHECK(std::count(permission.begin(), permission.end(), '.') == 2);
  }
  CHECK(permissions.size() > 25);
}

TEST_CASE("hearth.v1: every mutation takes a request_id") {
  const std::set<std::string> exempt = {
      "UploadArtifact",          // Its content is its identity.
      "Invoke", "InvokeStream",  // They take an idempotency_key.
  };
  int mutations = 0;
  for (const auto* method : Methods()) {
    const std::string& name = method->name();
    const bool reads = name.rfind("Get", 0) == 0 || name.rfind("List", 0) == 0 ||
                       name.rfind("Query", 0) == 0 || name.rfind("Tail", 0) == 0;
    if (reads || exempt.count(name) > 0) continue;
    INFO(method->full_name());
    CHECK(method->input_type()->FindFieldByName("request_id") != nullptr);
    ++mutations;
  }
  CHECK(mutations > 10);
  CHECK(hearth::v1::InvokeRequest::descriptor()->FindFieldByName("idempotency_key") != nullptr);
}

TEST_CASE("hearth.v1: every resource has a type, a pattern and a uid or an own id") {
  // Their ids are never another's: made by hearthd, a digest, or an image's name.
  const std::set<std::string> own_id = {"Artifact", "Invocation", "Instance",
                                        "Snapshot", "Image",      "Runtime"};
  std::set<std::string> with_uid;
  for (const auto* file : Files()) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      const auto* message = file->message_type(i);
      if (!message->options().HasExtension(google::api::resource)) continue;
      INFO(message->full_name());
      const auto& resource = message->options().GetExtension(google::api::resource);
      CHECK(resource.type() == "hearth.dev/" + message->name());
      CHECK(resource.pattern_size() == 1);
      CHECK(message->FindFieldByName("name") != nullptr);
      const bool has_uid = message->FindFieldByName("uid") != nullptr;
      CHECK(has_uid != (own_id.count(message->name()) > 0));
      if (has_uid) with_uid.insert(message->name());
    }
  }
  CHECK(with_uid == std::set<std::string>{"Tenant", "Function", "Version", "Alias"});
}

}  // namespace hearth::control
