// SPDX-License-Identifier: Apache-2.0
#include "cli/failure.h"

#include <catch2/catch.hpp>

#include "google/rpc/error_details.pb.h"

namespace hearth::cli {
namespace {

grpc::Status WithDetails(grpc::StatusCode code, const std::string& message,
                         std::initializer_list<const google::protobuf::Message*> details) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  for (const auto* detail : details) status.add_details()->PackFrom(*detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

TEST_CASE("failure: the standard details become facts and advice") {
  google::rpc::ErrorInfo info;
  info.set_reason("MEMORY_ODD");
  info.set_domain("hearth.dev");
  (*info.mutable_metadata())["memory_mib"] = "129";
  google::rpc::BadRequest bad;
  auto* violation = bad.add_field_violations();
  violation->set_field("version.spec.memory_mib");
  violation->set_description("must be even");
  const Failure failure = FromStatus(
      WithDetails(grpc::StatusCode::INVALID_ARGUMENT, "129 MiB is odd", {&info, &bad}), "deploy f");
  CHECK(failure.exit_code == kExitFailed);
  CHECK(RenderText(failure, false) ==
        "error  cannot deploy f: 129 MiB is odd\n"
        "       version.spec.memory_mib: must be even\n"
        "       (MEMORY_ODD, memory_mib 129)\n");
  const auto json = RenderJson(failure)["error"];
  CHECK(json["code"] == "INVALID_ARGUMENT");
  CHECK(json["reason"] == "MEMORY_ODD");
  CHECK(json["metadata"]["memory_mib"] == "129");
}

TEST_CASE("failure: what may work later says when, and has an exit code of its own") {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  google::rpc::QuotaFailure quota;
  quota.add_violations()->set_subject("queue");
  quota.mutable_violations(0)->set_description("100 wait already");
  const Failure failure = FromStatus(
      WithDetails(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", {&retry, &quota}), "invoke f");
  CHECK(failure.exit_code == kExitRetry);
  CHECK(failure.retry_after_ms == 2000);
  CHECK(failure.facts == std::vector<std::string>{"queue: 100 wait already"});
  CHECK(failure.advice.front() == "Try again in 2.0 s.");
  CHECK(RenderJson(failure)["error"]["retryAfterMs"] == 2000);
}

TEST_CASE("failure: every code has a name, an exit code and advice where there is any") {
  CHECK(FromStatus({grpc::StatusCode::UNAVAILABLE, "gone"}, "x").exit_code == kExitUnreachable);
  CHECK(FromStatus({grpc::StatusCode::CANCELLED, ""}, "x").message == "cannot x: CANCELLED");
  CHECK(FromStatus({grpc::StatusCode::NOT_FOUND, "f"}, "x").advice.size() == 1);
  CHECK(FromStatus({static_cast<grpc::StatusCode>(20), "f"}, "x").code == "UNKNOWN");
}

TEST_CASE("failure: a hearthd that says UNAVAILABLE with a reason was reached") {
  google::rpc::ErrorInfo info;
  info.set_reason("BOOT_FAILED");
  const Failure failure =
      FromStatus(WithDetails(grpc::StatusCode::UNAVAILABLE, "no KVM", {&info}), "deploy f");
  CHECK(failure.exit_code == kExitFailed);
  CHECK(failure.advice.front().find("the host's trouble") != std::string::npos);
}

TEST_CASE("failure: details that are no details do not hide the error") {
  const Failure failure =
      FromStatus(grpc::Status(grpc::StatusCode::INTERNAL, "broken", "\xff\xff garbage"), "x");
  CHECK(failure.message == "cannot x: broken");
}

TEST_CASE("failure: control sequences from a server do not reach the terminal") {
  const Failure failure = FromStatus({grpc::StatusCode::INTERNAL,
                                      "a\033[2Jb\xc2\x9b"
                                      "c"},
                                     "x");
  CHECK(RenderText(failure, false).find('\033') == std::string::npos);
  CHECK(RenderText(failure, false).find("a?[2Jb??c") != std::string::npos);
}

}  // namespace
}  // namespace hearth::cli
