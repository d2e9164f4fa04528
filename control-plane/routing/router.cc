// SPDX-License-Identifier: Apache-2.0
#include "control-plane/routing/router.h"

#include "absl/strings/match.h"
#include "control-plane/api/errors.h"
#include "control-plane/api/names.h"
#include "control-plane/routing/describe.h"

namespace hearth::control {
namespace {

// Beyond this all is forgotten and loaded again as needed: memory stays bounded.
constexpr size_t kMaxFunctions = 10'000;

}  // namespace

absl::StatusOr<Route> Router::Resolve(const std::string& name) {
  Route route;
  std::string alias, version;
  const bool implied =
      !absl::StrContains(name, "/versions/") && !absl::StrContains(name, "/aliases/");
  if (absl::StrContains(name, "/versions/")) {
    RETURN_IF_ERROR(ParseName(kVersionPattern, name, "name").status());
    route.function = ParentOf(name);
    version = name;
  } else if (absl::StrContains(name, "/aliases/")) {
    RETURN_IF_ERROR(ParseName(kAliasPattern, name, "name").status());
    route.function = ParentOf(name);
    alias = name;
  } else {
    RETURN_IF_ERROR(ParseName(kFunctionPattern, name, "name").status());
    route.function = name;
    alias = absl::StrCat(name, "/aliases/live");
  }
  uint64_t generation = 0;
  {
    absl::MutexLock lock(&mutex_);
    generation = generation_;
    const auto known = functions_.find(route.function);
    if (known != functions_.end()) {
      if (!alias.empty()) {
        const auto target = known->second.aliases.find(alias);
        if (target != known->second.aliases.end()) version = target->second;
      }
      const auto found = known->second.versions.find(version);
      if (found != known->second.versions.end()) {
        route.version = found->second;
        return route;
      }
    }
  }
  if (version.empty()) {
    ASSIGN_OR_RETURN(version, LoadAlias(route.function, alias, implied));
  }
  ASSIGN_OR_RETURN(route.version, LoadVersion(version));
  absl::MutexLock lock(&mutex_);
  if (generation_ != generation) return route;
  if (functions_.size() >= kMaxFunctions) functions_.clear();
  Known& known = functions_[route.function];
  if (!alias.empty()) known.aliases[alias] = version;
  known.versions[version] = route.version;
  return route;
}

absl::StatusOr<std::string> Router::LoadAlias(const std::string& function, const std::string& alias,
                                              bool implied) const {
  std::string version;
  const absl::Status status = metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    const auto record = t.Get(Kind::kAlias, alias);
    if (record.ok()) {
      version = record->reference;
      return absl::OkStatus();
    }
    if (!absl::IsNotFound(record.status())) return record.status();
    if (!implied) return NotFound(alias);
    if (absl::IsNotFound(t.Get(Kind::kFunction, function).status())) return NotFound(function);
    return ApiError(absl::StatusCode::kFailedPrecondition, "NO_LIVE_VERSION",
                    absl::StrCat(function, " has no live version yet; deploy one, or see why the ",
                                 "last deployment failed"),
                    {{"function", function}});
  });
  RETURN_IF_ERROR(status);
  return version;
}

absl::StatusOr<VersionPtr> Router::LoadVersion(const std::string& name) const {
  hearth::v1::Version version;
  const absl::Status status = metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    const auto record = t.Get(Kind::kVersion, name);
    if (absl::IsNotFound(record.status())) return NotFound(name);
    RETURN_IF_ERROR(record.status());
    if (!version.ParseFromString(record->body)) {
      return absl::DataLossError(absl::StrCat("the record of ", name, " is damaged"));
    }
    return absl::OkStatus();
  });
  RETURN_IF_ERROR(status);
  if (version.state() != hearth::v1::Version::READY) {
    return ApiError(absl::StatusCode::kFailedPrecondition, "VERSION_NOT_READY",
                    absl::StrCat(name, " is ", hearth::v1::Version::State_Name(version.state()),
                                 ", so it cannot be invoked"),
                    {{"version", name}});
  }
  const auto code = disks_->Find(version.code_digest());
  if (!code.ok()) {
    return ApiError(absl::StatusCode::kFailedPrecondition, "CODE_DISK_DAMAGED",
                    absl::StrCat("the code disk of ", name, " cannot be used (",
                                 code.status().message(), "); deploy the function again"),
                    {{"version", name}, {"digest", version.code_digest()}});
  }
  return DescribeVersion(version, *images_, *code);
}

void Router::InvalidateAll() {
  absl::MutexLock lock(&mutex_);
  ++generation_;
  functions_.clear();
}

void Router::Invalidate(const std::string& function) {
  absl::MutexLock lock(&mutex_);
  ++generation_;
  functions_.erase(function);
}

}  // namespace hearth::control
