// An Azure OpenAI resource with Realtime deployments, and who may use it.

param name string
param location string
param tags object
param deployments array
param userPrincipalId string

// "Cognitive Services OpenAI User": may use deployments, and change nothing.
var openaiUser = '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'

resource account 'Microsoft.CognitiveServices/accounts@2024-10-01' = {
  name: name
  location: location
  tags: tags
  kind: 'OpenAI'
  sku: {
    name: 'S0'
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    // Tokens are only for resources with a name of their own.
    customSubDomainName: name
    // No keys: nothing to lose, nothing to rotate.
    disableLocalAuth: true
    publicNetworkAccess: 'Enabled'
    networkAcls: {
      defaultAction: 'Allow'
    }
  }
}

// One after the other: the resource takes one change at a time.
@batchSize(1)
resource deployment 'Microsoft.CognitiveServices/accounts/deployments@2024-10-01' = [for item in deployments: {
  parent: account
  name: item.name
  sku: {
    name: item.sku
    capacity: item.capacity
  }
  properties: {
    model: {
      format: 'OpenAI'
      name: item.model
      version: item.version
    }
    versionUpgradeOption: 'OnceCurrentVersionExpired'
  }
}]

resource use 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, userPrincipalId, openaiUser)
  scope: account
  properties: {
    principalId: userPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', openaiUser)
  }
}

output url string = 'https://${account.properties.customSubDomainName}.openai.azure.com'
