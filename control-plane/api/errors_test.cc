// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/errors.h"

#include <catch2/catch.hpp>

namespace hearth::control {

TEST_CASE("errors: every error on the wire has an ErrorInfo of our domain, first") {
  const auto plain = ToRpcStatus(absl::InternalError("sqlite: odd"));
  REQUIRE(plain.details_size() == 1);
  google::rpc::ErrorInfo info;
  REQUIRE(plain.details(0).UnpackTo(&info));
  CHECK(info.domain() == "hearth.dev");
  CHECK(info.reason() == "INTERNAL");

  const auto full = ToRpcStatus(WithRetry(
      WithQuota(ApiError(absl::StatusCode::kResourceExhausted, "TOO_MANY_INVOCATIONS", "busy"),
                "tenants/t", "at most 3"),
      absl::Milliseconds(1500)));
  CHECK(full.code() == 8);
  REQUIRE(full.details_size() == 3);
  REQUIRE(full.details(0).UnpackTo(&info));
  CHECK(info.reason() == "TOO_MANY_INVOCATIONS");
  google::rpc::RetryInfo retry;
  CHECK((full.details(1).UnpackTo(&retry) || full.details(2).UnpackTo(&retry)));
  CHECK(retry.retry_delay().seconds() == 1);
  CHECK(retry.retry_delay().nanos() == 500'000'000);
}

TEST_CASE("errors: what is too large for trailers is cut between characters, the reason never") {
  std::string name;
  while (name.size() < 100'000) name += "é";
  const auto rpc = ToTrailers(ApiError(absl::StatusCode::kNotFound, "RESOURCE_NOT_FOUND", name,
                                       {{"resource", name}, {"other", "short"}}));
  CHECK(rpc.code() == 5);
  CHECK(rpc.message().size() <= 1024);
  const size_t kept = rpc.message().size() - 3;
  CHECK(rpc.message() == name.substr(0, kept) + "...");
  CHECK(kept % 2 == 0);
  google::rpc::ErrorInfo info;
  REQUIRE(rpc.details_size() == 1);
  REQUIRE(rpc.details(0).UnpackTo(&info));
  CHECK(info.reason() == "RESOURCE_NOT_FOUND");
  CHECK(info.metadata().at("other") == "short");
  // As it was, when it fits.
  const absl::Status small = WithRetry(NotFound("x"), absl::Seconds(1));
  CHECK(ToTrailers(small).SerializeAsString() == ToRpcStatus(small).SerializeAsString());
}

TEST_CASE("errors: all wrong fields are told at once") {
  FieldViolations violations;
  CHECK(violations.ToStatus().ok());
  violations.Add("a", "is wrong");
  violations.Add(InvalidField("b", "too"));
  violations.Add(absl::OkStatus());
  const auto rpc = ToRpcStatus(violations.ToStatus());
  CHECK(rpc.code() == 3);
  CHECK(rpc.message() == "a: is wrong; b: too");
  google::rpc::BadRequest request;
  REQUIRE(rpc.details(1).UnpackTo(&request));
  CHECK(request.field_violations_size() == 2);
  violations.Add(absl::UnimplementedError("http"));
  CHECK(absl::IsUnimplemented(violations.ToStatus()));
}

TEST_CASE("errors: a reason is given once; the first stays") {
  const absl::Status first = WithReason(absl::AbortedError("x"), "FIRST");
  CHECK(ReasonOf(WithReason(first, "SECOND")) == "FIRST");
  CHECK(WithReason(absl::OkStatus(), "NONE").ok());
}

}  // namespace hearth::control
