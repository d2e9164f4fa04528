// SPDX-License-Identifier: Apache-2.0
// Resource names: parsed against a pattern, made from their parts.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::control {

inline constexpr char kTenantPattern[] = "tenants/{tenant}";
inline constexpr char kFunctionPattern[] = "tenants/{tenant}/functions/{function}";
inline constexpr char kVersionPattern[] =
    "tenants/{tenant}/functions/{function}/versions/{version}";
inline constexpr char kSnapshotPattern[] =
    "tenants/{tenant}/functions/{function}/versions/{version}/snapshots/{snapshot}";
inline constexpr char kAliasPattern[] = "tenants/{tenant}/functions/{function}/aliases/{alias}";
inline constexpr char kInvocationPattern[] =
    "tenants/{tenant}/functions/{function}/invocations/{invocation}";
inline constexpr char kArtifactPattern[] = "tenants/{tenant}/artifacts/{artifact}";
inline constexpr char kOperationPattern[] = "tenants/{tenant}/operations/{operation}";

// The variable parts of `name`, in order; INVALID_ARGUMENT about `field` when it does not fit the
// pattern. With `wildcards` a part may be "-".
absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view pattern,
                                                   absl::string_view name, absl::string_view field,
                                                   bool wildcards = false);

// Whether a user may give this id to a tenant, function or alias: [A-Za-z0-9_-]{1,64}, but not "-",
// which means "all of them" in lists.
absl::Status CheckId(absl::string_view id, absl::string_view field);

// All but the last collection and id: a version's function, a function's tenant.
std::string ParentOf(absl::string_view name);
std::string IdOf(absl::string_view name);  // The last part.

}  // namespace hearth::control
