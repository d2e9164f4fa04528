// SPDX-License-Identifier: Apache-2.0
#include "control-plane/routing/describe.h"

#include "control-plane/api/errors.h"
#include "control-plane/api/fields.h"
#include "control-plane/limits.h"

namespace hearth::control {

absl::StatusOr<VersionPtr> DescribeVersion(const hearth::v1::Version& version,
                                           const ImageStore& images, const ImageFile& code) {
  const auto& spec = version.spec();
  const std::shared_ptr<const ImageSet> set = images.current();
  const auto runtime = set->runtimes.find(spec.runtime());
  if (runtime == set->runtimes.end()) {
    return ApiError(absl::StatusCode::kFailedPrecondition, "RUNTIME_NOT_FOUND",
                    absl::StrCat("the image store has no runtime '", spec.runtime(), "'"),
                    {{"runtime", spec.runtime()}});
  }
  auto description = std::make_shared<VersionDescription>();
  description->name = version.name();
  description->uid = version.uid();
  description->kernel = set->kernel;
  description->agent = set->agent;
  description->runtime = runtime->second.description;
  if (spec.interface().has_stdio()) {
    description->runtime.runtime_api = false;
    description->runtime.arguments.assign(spec.interface().stdio().command().begin(),
                                          spec.interface().stdio().command().end());
  } else {
    description->runtime.runtime_api = true;
    description->runtime.handler = spec.interface().runtime_api().handler();
  }
  description->code_disk = code;
  description->memory_mib =
      spec.memory_mib() == 0 ? limits::kDefaultMemoryMib : static_cast<uint32_t>(spec.memory_mib());
  description->timeout =
      spec.has_timeout() ? FromDuration(spec.timeout()) : limits::kDefaultTimeout;
  description->init_timeout =
      spec.has_init_timeout() ? FromDuration(spec.init_timeout()) : limits::kDefaultInitTimeout;
  description->environment.insert(spec.environment().begin(), spec.environment().end());
  description->secrets.insert(spec.secrets().begin(), spec.secrets().end());
  return VersionPtr(std::move(description));
}

}  // namespace hearth::control
