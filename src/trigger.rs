//! What Cognito's `triggerSource` means: a sign-in, a sign-up, a change, or nothing that UserHub should hear of.

use crate::userhub::EventType;

/// Every source that AWS documents (page "Customizing user pool workflows with Lambda triggers" of the Amazon Cognito
/// developer guide), most frequent first. Only these names are logged.
pub const SOURCES: [&str; 42] = [
    "PostAuthentication_Authentication",
    "TokenGeneration_RefreshTokens",
    "TokenGeneration_HostedAuth",
    "TokenGeneration_Authentication",
    "TokenGeneration_ClientCredentials",
    "TokenGeneration_NewPasswordChallenge",
    "TokenGeneration_AuthenticateDevice",
    "PostConfirmation_ConfirmSignUp",
    "PostConfirmation_ConfirmForgotPassword",
    "PreAuthentication_Authentication",
    "PreSignUp_SignUp",
    "PreSignUp_AdminCreateUser",
    "PreSignUp_ExternalProvider",
    "DefineAuthChallenge_Authentication",
    "CreateAuthChallenge_Authentication",
    "VerifyAuthChallengeResponse_Authentication",
    "VerifyAuthChallenge_Authentication",
    "UserMigration_Authentication",
    "UserMigration_ForgotPassword",
    "CustomMessage_SignUp",
    "CustomMessage_AdminCreateUser",
    "CustomMessage_ResendCode",
    "CustomMessage_ForgotPassword",
    "CustomMessage_UpdateUserAttribute",
    "CustomMessage_VerifyUserAttribute",
    "CustomMessage_Authentication",
    "CustomEmailSender_SignUp",
    "CustomEmailSender_AdminCreateUser",
    "CustomEmailSender_ResendCode",
    "CustomEmailSender_ForgotPassword",
    "CustomEmailSender_UpdateUserAttribute",
    "CustomEmailSender_VerifyUserAttribute",
    "CustomEmailSender_Authentication",
    "CustomEmailSender_AccountTakeOverNotification",
    "CustomSMSSender_SignUp",
    "CustomSMSSender_AdminCreateUser",
    "CustomSMSSender_ResendCode",
    "CustomSMSSender_ForgotPassword",
    "CustomSMSSender_UpdateUserAttribute",
    "CustomSMSSender_VerifyUserAttribute",
    "CustomSMSSender_Authentication",
    "InboundFederation_ExternalProvider",
];

/// The triggers that fire before a sign-in, or for something else. The function should be on none of them. AWS spells two of
/// them in two ways.
const OTHER_TRIGGERS: [&str; 12] = [
    "PreAuthentication_",
    "PreSignUp_",
    "DefineAuthChallenge_",
    "CreateAuthChallenge_",
    "VerifyAuthChallengeResponse_",
    "VerifyAuthChallenge_",
    "UserMigration_",
    "CustomMessage_",
    "CustomEmailSender_",
    "CustomSMSSender_",
    "CustomSmsSender_",
    "InboundFederation_",
];

/// Why Cognito called the function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trigger {
    /// One of [`SOURCES`]. `None` for any other text.
    pub source: Option<&'static str>,
    /// What UserHub should hear of it.
    pub meaning: Meaning,
}

/// What UserHub should hear of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// Something happened to a user.
    Report(EventType),
    /// Nothing happened, such as when tokens are refreshed.
    Nothing,
    /// Nothing has happened yet: the function is on a trigger that it should not be on.
    WrongTrigger,
}

impl Trigger {
    /// Classifies a `triggerSource`. One that is unknown or absent is a sign-in, as in UserHub's guide.
    #[must_use]
    pub fn new(source: Option<&str>) -> Self {
        let source = source.unwrap_or_default();
        let meaning = match source {
            "PostConfirmation_ConfirmSignUp" => Meaning::Report(EventType::SignUp), // a federated user's first sign-in too
            "PostConfirmation_ConfirmForgotPassword" => Meaning::Report(EventType::Changed), // nobody signs in
            "TokenGeneration_HostedAuth" => Meaning::Report(EventType::SignIn),
            _ if source.starts_with("TokenGeneration_") => Meaning::Nothing,
            _ if OTHER_TRIGGERS.iter().any(|trigger| source.starts_with(trigger)) => Meaning::WrongTrigger,
            _ => Meaning::Report(EventType::SignIn),
        };
        Self { source: SOURCES.into_iter().find(|known| *known == source), meaning }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_sign_ins_sign_ups_and_changes() {
        for (source, event_type) in [
            (Some("PostAuthentication_Authentication"), EventType::SignIn),
            (Some("PostAuthentication_SomethingNew"), EventType::SignIn),
            (Some("PostConfirmation_ConfirmSignUp"), EventType::SignUp),
            (Some("PostConfirmation_ConfirmForgotPassword"), EventType::Changed),
            (Some("PostConfirmation_SomethingNew"), EventType::SignIn),
            (Some("TokenGeneration_HostedAuth"), EventType::SignIn),
            (Some("SomethingNew_Authentication"), EventType::SignIn),
            (Some("postconfirmation_confirmsignup"), EventType::SignIn),
            (Some(""), EventType::SignIn),
            (None, EventType::SignIn),
        ] {
            assert_eq!(Trigger::new(source).meaning, Meaning::Report(event_type), "{source:?}");
        }
    }

    #[test]
    fn reports_nothing_else_that_aws_documents() {
        for source in SOURCES {
            let expected = match source.split('_').next().unwrap() {
                "PostAuthentication" | "PostConfirmation" => continue,
                "TokenGeneration" if source == "TokenGeneration_HostedAuth" => continue,
                "TokenGeneration" => Meaning::Nothing,
                _ => Meaning::WrongTrigger,
            };
            assert_eq!(Trigger::new(Some(source)).meaning, expected, "{source}");
        }
        assert_eq!(Trigger::new(Some("TokenGeneration_SomethingNew")).meaning, Meaning::Nothing);
        for trigger in OTHER_TRIGGERS {
            assert_eq!(Trigger::new(Some(&format!("{trigger}SomethingNew"))).meaning, Meaning::WrongTrigger);
        }
    }

    #[test]
    fn knows_the_documented_names_and_no_others() {
        for source in SOURCES {
            assert_eq!(Trigger::new(Some(source)).source, Some(source));
        }
        for source in ["", "PostAuthentication_", "PostAuthentication_Sample", "sample.user@example.com"] {
            assert_eq!(Trigger::new(Some(source)).source, None);
        }
    }
}
