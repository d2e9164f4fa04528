// SPDX-License-Identifier: Apache-2.0
// Rules that the public API's descriptors must keep.
#include <google/protobuf/descriptor.h>

#include <catch2/catch.hpp>
#include <set>

#include "google/api/field_behavior.pb.h"
#include "google/api/resource.pb.h"
#include "hearth/v1/annotations.pb.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {
namespace {

std::vector<const google::protobuf::FileDescriptor*> Files() {
  return {hearth::v1::Tenant::descriptor()->file(),
          hearth::v1::InvokeRequest::descriptor()->file()};
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

TEST_CASE("hearth.v1: every method names a permission of the form hearth.resource.verb") {
  int methods = 0;
  for (const auto* file : Files()) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto* method = file->service(s)->method(m);
        INFO(method->full_name());
        const std::string permission = method->options().GetExtension(hearth::v1::permission);
        CHECK(permission.rfind("hearth.", 0) == 0);
        CHECK(std::count(permission.begin(), permission.end(), '.') == 2);
        ++methods;
      }
    }
  }
  CHECK(methods > 20);
}

TEST_CASE("hearth.v1: every mutation takes a request_id") {
  const std::set<std::string> exempt = {
      "UploadArtifact",  // Its content is its identity.
  };
  for (const auto* file : Files()) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto* method = file->service(s)->method(m);
        const std::string& name = method->name();
        const bool mutation = name.rfind("Create", 0) == 0 || name.rfind("Update", 0) == 0 ||
                              name.rfind("Delete", 0) == 0;
        if (!mutation || exempt.count(name) > 0) continue;
        INFO(method->full_name());
        CHECK(method->input_type()->FindFieldByName("request_id") != nullptr);
      }
    }
  }
}

TEST_CASE("hearth.v1: every resource has a type, a pattern and a uid or an own id") {
  for (const auto* file : Files()) {
    for (int i = 0; i < file->message_type_count(); ++i) {
      const auto* message = file->message_type(i);
      if (!message->options().HasExtension(google::api::resource)) continue;
      INFO(message->full_name());
      const auto& resource = message->options().GetExtension(google::api::resource);
      CHECK(resource.type() == "hearth.dev/" + message->name());
      CHECK(resource.pattern_size() == 1);
      CHECK(message->FindFieldByName("name") != nullptr);
    }
  }
}

}  // namespace hearth::control
